//! Reads a layer's tar as a stream: members in order, each with the offset of
//! its content, in bounded memory whatever the stream says.
//!
//! Formats: V7, ustar, PAX, GNU (long names and links, sparse files in the old
//! form and in PAX 0.0, 0.1 and 1.0). The rules where the formats leave a
//! choice are those of Go's `archive/tar`, because the tools that make and
//! unpack images use it: global PAX headers are skipped, GNU long names win
//! over PAX names, members without content have no content whatever their
//! size field says.
//!
//! The header layout is the `tar` crate's; the walk is ours because the crate
//! keeps extension headers of any size in memory, gives no offsets for sparse
//! members and does not know PAX sparse files.

mod fields;

use std::io::{self, Read};

use tar::{EntryType, Header};

use self::fields::{device, owner, signed, sum_is_right, unsigned};
use crate::tar::entry::{Attributes, Content, Entry, EntryKind, Segment, Timestamp, display_name};
use crate::tar::pax::{self, PaxHeader};

/// A tar's unit.
const BLOCK: u64 = 512;
/// The longest extension header that is read (Go's limit is 1 MiB as well).
const MAX_EXTENSION: u64 = 1 << 20;
/// The most data runs of one sparse file.
const MAX_SEGMENTS: usize = 1 << 16;
/// How much is skipped at once.
const SKIP: usize = 256 << 10;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the message of each says it; offsets are into the uncompressed tar
pub enum TarError {
    #[error("it could not be read at offset {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("it is cut short at offset {offset}")]
    CutShort { offset: u64 },
    #[error("the header at offset {offset} is not a tar header")]
    NoHeader { offset: u64 },
    #[error("the header at offset {offset} has a bad {field} field")]
    Field { offset: u64, field: &'static str },
    #[error("the extended header at offset {offset} is broken: {reason}")]
    Extended { offset: u64, reason: &'static str },
    #[error("the extended header at offset {offset} is longer than {MAX_EXTENSION} bytes")]
    ExtendedTooLong { offset: u64 },
    #[error("the sparse file {path:?} has a broken map")]
    SparseMap { path: String },
    #[error("{path:?} has type {flag:?}, which no image may hold")]
    Type { path: String, flag: char },
}

/// A tar being read.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes taken from `input`.
    offset: u64,
    /// Where the next header begins.
    next: u64,
    buffer: Vec<u8>,
    /// How to skip bytes without reading them, where that is possible.
    seek: Option<fn(&mut R, i64) -> io::Result<()>>,
    ended: bool,
}

/// Extensions collected before the header they belong to.
#[derive(Default)]
struct Extensions {
    pax: PaxHeader,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Starts reading at `input`'s current position, which is offset 0.
    pub fn new(input: R) -> TarReader<R> {
        TarReader {
            input,
            offset: 0,
            next: 0,
            buffer: vec![0; SKIP],
            seek: None,
            ended: false,
        }
    }

    /// Like [`TarReader::new`], but content is skipped by seeking. Where that
    /// leads beyond the end, `input` must fail with [`io::ErrorKind::UnexpectedEof`].
    pub fn seekable(input: R) -> TarReader<R>
    where
        R: io::Seek,
    {
        TarReader {
            seek: Some(|input, forward| input.seek_relative(forward)),
            ..TarReader::new(input)
        }
    }

    /// The next member, or `None` after the last. Content is skipped.
    ///
    /// # Errors
    /// [`TarError`]; the reader is of no use after one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        while !self.ended {
            self.skip_to(self.next)?;
            let at = self.offset;
            let Some(header) = self.header()? else {
                if extended {
                    return Err(TarError::CutShort { offset: at });
                }
                self.ended = true;
                break;
            };
            let size = unsigned(&header.as_old().size, at, "size")?;
            match header.entry_type() {
                EntryType::XGlobalHeader => self.end_at(size, at)?,
                EntryType::XHeader => {
                    let data = self.extension(size, at)?;
                    extensions.pax = pax::parse(&data, 2 * MAX_SEGMENTS)
                        .map_err(|reason| TarError::Extended { offset: at, reason })?;
                    extended = true;
                }
                EntryType::GNULongName => {
                    extensions.long_name = Some(until_nul(self.extension(size, at)?));
                    extended = true;
                }
                EntryType::GNULongLink => {
                    extensions.long_link = Some(until_nul(self.extension(size, at)?));
                    extended = true;
                }
                _ => return self.member(&header, at, size, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// Reads what is left after the last member, so that whoever hashes the
    /// stream has seen all of it, and gives the input back.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn finish(mut self) -> Result<R, TarError> {
        self.ended = true;
        loop {
            match self.input.read(&mut self.buffer) {
                Ok(0) => return Ok(self.input),
                Ok(read) => self.offset += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
    }

    fn member(
        &mut self,
        header: &Header,
        at: u64,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, TarError> {
        let Extensions {
            mut pax,
            long_name,
            long_link,
        } = extensions;
        let old = header.as_old();
        let path = (long_name.or_else(|| pax.path.take()))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = (long_link.or_else(|| pax.link.take())).unwrap_or_else(|| {
            let bytes = header.link_name_bytes();
            bytes.map_or_else(Vec::new, |bytes| bytes.into_owned())
        });
        let attributes = Attributes {
            mode: (signed(&old.mode, at, "mode")? & 0o7777) as u16,
            uid: owner(pax.uid, &old.uid, at, "uid")?,
            gid: owner(pax.gid, &old.gid, at, "gid")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => Timestamp {
                    seconds: signed(&old.mtime, at, "mtime")?,
                    nanos: 0,
                },
            },
            xattrs: std::mem::take(&mut pax.xattrs),
        };
        let kind = match header.entry_type() {
            EntryType::Directory => EntryKind::Directory,
            // Before ustar a directory was a file whose name ends in a slash.
            EntryType::Regular if old.linkflag == [0] && path.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(header, at, size, path, pax, attributes);
            }
            EntryType::Link => EntryKind::Hardlink { target: link },
            EntryType::Symlink => EntryKind::Symlink { target: link },
            EntryType::Char => EntryKind::CharDevice(device(header, at)?),
            EntryType::Block => EntryKind::BlockDevice(device(header, at)?),
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(TarError::Type {
                    path: display_name(&path),
                    flag: char::from(other.as_byte()),
                });
            }
        };
        self.next = self.offset;
        Ok(Entry {
            path,
            kind,
            attributes,
        })
    }

    /// The regular file whose header was just read: finds its content and
    /// where the next header is.
    fn file(
        &mut self,
        header: &Header,
        at: u64,
        size: u64,
        path: Vec<u8>,
        mut pax: PaxHeader,
        attributes: Attributes,
    ) -> Result<Entry, TarError> {
        let stored = pax.size.unwrap_or(size);
        let broken = |path: &[u8]| TarError::SparseMap {
            path: display_name(path),
        };
        let mut path = path;
        let content = if header.entry_type() == EntryType::GNUSparse {
            let (map, real) = self.old_sparse_map(header, at, &path)?;
            self.end_at(stored, at)?;
            sparse_content(&map, real, self.offset, stored).ok_or_else(|| broken(&path))?
        } else if pax.sparse.is_sparse() {
            path = pax.sparse.name.take().unwrap_or(path);
            self.end_at(stored, at)?;
            let begin = self.offset;
            let map = match pax.sparse.major {
                Some(1) => self.sparse_map_in_data(stored).map_err(|e| match e {
                    None => broken(&path),
                    Some(error) => error,
                })?,
                None | Some(0) => pax.sparse.map.take().unwrap_or_default(),
                Some(_) => return Err(broken(&path)),
            };
            let stored = stored
                .checked_sub(self.offset - begin)
                .ok_or_else(|| broken(&path))?;
            (pax.sparse.size)
                .and_then(|real| sparse_content(&map, real, self.offset, stored))
                .ok_or_else(|| broken(&path))?
        } else {
            self.end_at(stored, at)?;
            Content::dense(stored, self.offset)
        };
        Ok(Entry {
            path,
            kind: EntryKind::File(content),
            attributes,
        })
    }

    /// The map of an old GNU sparse member (`oldgnu` format), which may go on
    /// in blocks after the header, and the file's real length.
    fn old_sparse_map(
        &mut self,
        header: &Header,
        at: u64,
        path: &[u8],
    ) -> Result<(Vec<u64>, u64), TarError> {
        let broken = || TarError::SparseMap {
            path: display_name(path),
        };
        let gnu = header.as_gnu().ok_or_else(broken)?;
        let real = unsigned(&gnu.realsize, at, "real size")?;
        let mut map = Vec::new();
        for run in gnu.sparse.iter().filter(|run| !run.is_empty()) {
            map.push(unsigned(&run.offset, at, "sparse offset")?);
            map.push(unsigned(&run.numbytes, at, "sparse length")?);
        }
        let mut more = gnu.is_extended();
        while more {
            if map.len() >= 2 * MAX_SEGMENTS {
                return Err(broken());
            }
            let mut block = tar::GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            for run in block.sparse().iter().filter(|run| !run.is_empty()) {
                map.push(unsigned(&run.offset, at, "sparse offset")?);
                map.push(unsigned(&run.numbytes, at, "sparse length")?);
            }
            more = block.is_extended();
        }
        Ok((map, real))
    }

    /// The map of a PAX 1.0 sparse member: decimal lines before the content,
    /// filled up to a block. `Err(None)` is a broken map.
    fn sparse_map_in_data(&mut self, stored: u64) -> Result<Vec<u64>, Option<TarError>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut current: Option<u64> = None;
        let mut block = [0; BLOCK as usize];
        let mut taken = 0;
        loop {
            taken += BLOCK;
            if taken > stored.next_multiple_of(BLOCK) {
                return Err(None);
            }
            self.fill(&mut block).map_err(Some)?;
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        let value = current.unwrap_or(0).checked_mul(10);
                        current = Some(value.and_then(|v| v.checked_add(digit)).ok_or(None)?);
                    }
                    b'\n' => numbers.push(current.take().ok_or(None)?),
                    _ => return Err(None),
                }
                let Some((count, map)) = numbers.split_first() else {
                    continue;
                };
                if *count > MAX_SEGMENTS as u64 {
                    return Err(None);
                }
                // The first line counts the pairs that follow.
                if map.len() as u64 == 2 * count {
                    numbers.remove(0);
                    return Ok(numbers);
                }
            }
        }
    }

    /// The content of an extension header of `size` bytes.
    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::ExtendedTooLong { offset: at });
        }
        self.end_at(size, at)?;
        let mut data = vec![0; size as usize];
        self.fill(&mut data)?;
        Ok(data)
    }

    /// Sets where the next header is: after `size` bytes from here, rounded up.
    fn end_at(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        self.next = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|size| self.offset.checked_add(size))
            .ok_or(TarError::Field {
                offset: at,
                field: "size",
            })?;
        Ok(())
    }

    /// The header here; `None` at the end: two zero blocks, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let offset = self.offset;
        let mut header = Header::new_old();
        for _ in 0..2 {
            if !self.fill_or_end(header.as_mut_bytes())? {
                return Ok(None);
            }
            if header.as_bytes().iter().any(|byte| *byte != 0) {
                // One zero block before a header is as broken as a bad sum.
                return match self.offset == offset + BLOCK && sum_is_right(&header) {
                    true => Ok(Some(header)),
                    false => Err(TarError::NoHeader { offset }),
                };
            }
        }
        Ok(None)
    }

    fn skip_to(&mut self, target: u64) -> Result<(), TarError> {
        let offset = self.offset;
        if let (Some(seek), Ok(forward)) = (self.seek, i64::try_from(target - offset)) {
            seek(&mut self.input, forward).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => TarError::CutShort { offset },
                _ => TarError::Read { offset, source },
            })?;
            self.offset = target;
        }
        while self.offset < target {
            let want = (target - self.offset).min(SKIP as u64) as usize;
            let mut buffer = std::mem::take(&mut self.buffer);
            let result = self.fill(&mut buffer[..want]);
            self.buffer = buffer;
            result?;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        match self.fill_or_end(buffer)? {
            true => Ok(()),
            false if buffer.is_empty() => Ok(()),
            false => Err(TarError::CutShort {
                offset: self.offset,
            }),
        }
    }

    /// Fills the buffer; false when there was not a single byte left.
    fn fill_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => {
                    return Err(TarError::CutShort {
                        offset: self.offset,
                    });
                }
                Ok(read) => {
                    filled += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
        Ok(true)
    }
}

/// Turns a sparse map into segments of the tar, or `None` if the runs are not
/// ascending, leave the file, or do not add up to what is stored.
fn sparse_content(map: &[u64], size: u64, offset: u64, stored: u64) -> Option<Content> {
    let mut segments = Vec::new();
    let (mut end, mut taken) = (0u64, 0u64);
    let (pairs, odd) = map.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    for [logical, length] in pairs.iter().copied() {
        let run_end = logical.checked_add(length)?;
        if logical < end || run_end > size {
            return None;
        }
        end = run_end;
        if length > 0 {
            segments.push(Segment {
                logical,
                offset: offset.checked_add(taken)?,
                length,
            });
        }
        taken = taken.checked_add(length)?;
    }
    (taken == stored).then_some(Content { size, segments })
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(nul);
    }
    bytes
}

#[cfg(test)]
mod tests;
