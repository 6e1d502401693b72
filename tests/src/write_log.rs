//! What a machine wrote to a disk, in order, and what is on the disk if its power is cut in between.
//!
//! QEMU's `blklogwrites` writes the log, in the format of Linux's `dm-log-writes`: a superblock, then
//! for each request a header of one sector and its data.
//!
//! ```text
//! superblock: magic 0x6a736677736872, version, number of requests (u64), sector size (u32)
//! request:    sector, number of sectors, flags, length of further data (u64)
//! ```
//!
//! A disk may keep writes in its cache until it is flushed, and write them in any order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Error;
use crate::numbers::Numbers;

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// The sector size that the log is written with, in bytes.
pub(crate) const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request.
#[derive(Debug, Clone, Copy)]
struct Request {
    /// Where on the disk, in bytes.
    offset: u64,
    /// How much, in bytes.
    length: u64,
    flags: u64,
    /// Where its data is in the log, in bytes.
    data: u64,
}

/// A log of writes.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    requests: Vec<Request>,
}

impl WriteLog {
    /// Reads the log of a machine that has ended.
    ///
    /// # Errors
    /// When it cannot be read or is not one.
    pub fn read(path: &Path) -> Result<WriteLog, Error> {
        let file = File::open(path).map_err(Error::file(path))?;
        parse(&file)
            .map(|requests| WriteLog { file, requests })
            .map_err(Error::file(path))
    }

    /// The number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing was requested.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Where the last of the first `count` requests wrote that are at or above `offset`, in bytes.
    pub fn last_above(&self, count: usize, offset: u64) -> Option<u64> {
        self.requests[..count]
            .iter()
            .filter(|request| request.length > 0 && request.offset >= offset)
            .map(|request| request.offset)
            .max()
    }

    /// Makes `disk`, which is as before the first request, what it may be after the first `count`:
    /// what was not flushed is there or not, at random, in whole requests.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn cut(&self, count: usize, numbers: &mut Numbers, disk: &Path) -> Result<(), Error> {
        let image = File::options().write(true).open(disk);
        let image = image.map_err(Error::file(disk))?;
        let done = &self.requests[..count];
        let flushed = done.iter().rposition(|it| it.flags & FLUSH != 0);
        for (index, request) in done.iter().enumerate() {
            let durable = flushed.is_some_and(|last| index < last) || request.flags & FUA != 0;
            // Data of a request that asks for a flush comes after it.
            if durable || numbers.percent(50) {
                self.apply(request, &image).map_err(Error::file(disk))?;
            }
        }
        Ok(())
    }

    fn apply(&self, request: &Request, image: &File) -> io::Result<()> {
        // What a disk has there afterwards is undefined; the old data is one possibility.
        if request.flags & DISCARD != 0 {
            return Ok(());
        }
        let length = usize::try_from(request.length).map_err(io::Error::other)?;
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, request.data)?;
        image.write_all_at(&data, request.offset)
    }
}

fn parse(file: &File) -> io::Result<Vec<Request>> {
    let end = file.metadata()?.len();
    let words = |offset: u64| -> io::Result<[u64; 4]> {
        let mut bytes = [0; 32];
        file.read_exact_at(&mut bytes, offset)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(std::array::from_fn(|index| {
            u64::from_le_bytes(words[index])
        }))
    };
    let [magic, version, _, sector] = words(0)?;
    // The number of requests is not up to date in the log of a machine that was killed.
    if (magic, version, sector & 0xffff_ffff) != (MAGIC, 1, SECTOR) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut requests = Vec::new();
    let mut at = SECTOR;
    while at + SECTOR <= end {
        let [sector, count, flags, _] = words(at)?;
        if (sector, count, flags) == (0, 0, 0) {
            break;
        }
        let stored = if flags & DISCARD == 0 { count } else { 0 };
        let (data, next) = (at + SECTOR, at + SECTOR * (1 + stored));
        if next > end {
            break;
        }
        requests.push(Request {
            offset: sector * SECTOR,
            length: count * SECTOR,
            flags,
            data,
        });
        at = next;
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(requests: &[(u64, u64, u8)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = [MAGIC, 1, 0, SECTOR].map(u64::to_le_bytes).concat();
        bytes.resize(512, 0);
        for (sector, flags, fill) in requests {
            let count = u64::from(*fill > 0);
            let start = bytes.len();
            bytes.extend([*sector, count, *flags, 0].map(u64::to_le_bytes).concat());
            bytes.resize(start + 512, 0);
            bytes.extend(vec![*fill; 512 * count as usize]);
        }
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_may_be() {
        // Two writes, a flush, a write, one that is durable at once, one after the cut.
        let file = log(&[
            (0, 0, 1),
            (1, 0, 2),
            (0, FLUSH, 0),
            (0, 0, 3),
            (2, FUA, 4),
            (1, 0, 9),
        ]);
        let log = WriteLog::read(file.path()).unwrap();
        assert_eq!(log.len(), 6);
        assert_eq!(log.last_above(6, 512), Some(1024));
        assert_eq!(log.last_above(4, 1024), None);
        let mut seen = [false; 2];
        for seed in 0..20 {
            let disk = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(disk.path(), [0; 2048]).unwrap();
            log.cut(5, &mut Numbers::new(seed), disk.path()).unwrap();
            let bytes = std::fs::read(disk.path()).unwrap();
            assert_eq!([bytes[512], bytes[1024], bytes[1536]], [2, 4, 0]);
            assert!(matches!(bytes[0], 1 | 3));
            seen[usize::from(bytes[0] == 3)] = true;
        }
        assert_eq!(seen, [true, true]);
    }
}
