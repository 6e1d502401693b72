//! Filling ranges of a file with zeros, and freeing them if the file system can.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// The size of one write on file systems without a faster method, in bytes.
const CHUNK: usize = 256 << 10;

/// Frees a range of the file, which then reads as zeros; `false` if the file system does not
/// support it.
///
/// # Errors
/// Those of the file system.
pub fn punch(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    supported(|| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, offset, len)
    })
}

/// Fills a range of the file with zeros; frees it if `unmap` is set and the file system can.
///
/// # Errors
/// Those of the file system. Part of the range may then be zero.
pub fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if len == 0 || unmap && punch(file, offset, len)? {
        return Ok(());
    }
    let ranged = supported(|| {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, offset, len)
    })?;
    if ranged {
        return Ok(());
    }
    write_zeros(file, offset, len)
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < len {
        let n = usize::try_from(len - done).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all_at(&zeros[..n], offset + done)?;
        done += n as u64;
    }
    Ok(())
}

/// Repeats a call that a signal interrupts; `false` if the file system does not support it.
fn supported(call: impl Fn() -> rustix::io::Result<()>) -> io::Result<bool> {
    loop {
        match call() {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_writes_the_same_zeros() {
        type Method = fn(&File, u64, u64) -> io::Result<()>;
        let methods: [Method; 3] = [
            |file, at, len| zero(file, at, len, true),
            |file, at, len| zero(file, at, len, false),
            write_zeros,
        ];
        for (offset, len) in [(0, 1 << 20), (512, 3 * 512), (4096, 700_000), (512, 0)] {
            for method in methods {
                let file = tempfile::tempfile().unwrap();
                let mut expected = vec![0xaa; 1 << 20];
                file.write_all_at(&expected, 0).unwrap();
                method(&file, offset, len).unwrap();
                expected[offset as usize..(offset + len) as usize].fill(0);
                let mut got = vec![1; 1 << 20];
                file.read_exact_at(&mut got, 0).unwrap();
                assert!(got == expected, "{offset} {len}");
                assert_eq!(file.metadata().unwrap().len(), 1 << 20);
            }
        }
    }
}
