//! Reads a layer's tar as a stream: members in order, each with the offset of
//! its content, in bounded memory for any input.
//!
//! Formats: V7, ustar, PAX, GNU (long names and links, sparse files in the old
//! form and in PAX 0.0, 0.1 and 1.0). Where the formats leave a choice, the
//! rules are those of Go's `archive/tar`, which the tools that build and unpack
//! images use: global PAX headers are skipped, GNU long names have priority
//! over PAX names, the size field of members without content is ignored, owners are
//! reduced to 32 bits, the padding of the last member may be missing, and a sparse
//! file of an unknown version is an ordinary file.
//!
//! The header layout comes from the `tar` crate. The iteration does not,
//! because the crate keeps extension headers of any size in memory, reports no
//! offsets for sparse members and does not support PAX sparse files.

mod fields;
mod format;
mod sparse;

use std::io::{self, Read};

use tar::{EntryType, Header};

use self::fields::{owner, signed, sum_is_right, unsigned};
use self::format::{device, name};
use self::sparse::sparse_content;
use crate::tar::entry::{Attributes, Content, Entry, EntryKind, Timestamp, display_name};
use crate::tar::pax::{self, MapPlace, PaxHeader};

/// The version of the reader. Must rise whenever it could read other members from the same tar.
pub(crate) const READER_VERSION: u32 = 2;

/// The block size of a tar.
const BLOCK: u64 = 512;
/// The maximum size of an extension header (the same limit as in Go).
const MAX_EXTENSION: u64 = 1 << 20;
/// The maximum number of data runs in a sparse file.
const MAX_SEGMENTS: usize = 1 << 16;
/// The size of a read while skipping.
const SKIP: usize = 256 << 10;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each message documents its variant; offsets are into the uncompressed tar
pub enum TarError {
    #[error("it could not be read at offset {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("it is truncated at offset {offset}")]
    CutShort { offset: u64 },
    #[error("the header at offset {offset} is not a tar header")]
    NoHeader { offset: u64 },
    #[error("the header at offset {offset} has an invalid {field} field")]
    Field { offset: u64, field: &'static str },
    #[error("the extended header at offset {offset} is malformed: {reason}")]
    Extended { offset: u64, reason: &'static str },
    #[error("the extended header at offset {offset} is longer than {MAX_EXTENSION} bytes")]
    ExtendedTooLong { offset: u64 },
    #[error("the sparse file {path:?} has an invalid map")]
    SparseMap { path: String },
    #[error("{path:?} has the unsupported type {flag:?}")]
    Type { path: String, flag: char },
}

/// A tar being read.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Bytes taken from `input`.
    offset: u64,
    /// Where the content of the last member ends; the next header follows its padding.
    end: u64,
    buffer: Vec<u8>,
    /// Skips bytes without reading them, if the input can seek.
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
            end: 0,
            buffer: vec![0; SKIP],
            seek: None,
            ended: false,
        }
    }

    /// Like [`TarReader::new`], but content is skipped by seeking. `input` must
    /// fail with [`io::ErrorKind::UnexpectedEof`] when it seeks past its end.
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
    /// [`TarError`]; the reader cannot be used after one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        while !self.ended {
            self.skip_to(self.end)?;
            let padded = self.skip_padding()?;
            let at = self.offset;
            // Extensions without a member are ignored, as is the lack of the last member's padding.
            let Some(header) = (if padded { self.header()? } else { None }) else {
                self.ended = true;
                break;
            };
            let size = match has_content(&header) {
                true => unsigned(&header.as_old().size, at, "size")?,
                false => 0,
            };
            match header.entry_type() {
                EntryType::XGlobalHeader => self.end_at(size, at)?,
                EntryType::XHeader => {
                    let data = self.extension(size, at)?;
                    extensions.pax = pax::parse(&data, 2 * MAX_SEGMENTS)
                        .map_err(|reason| TarError::Extended { offset: at, reason })?;
                }
                EntryType::GNULongName => {
                    extensions.long_name = long(self.extension(size, at)?);
                }
                EntryType::GNULongLink => {
                    extensions.long_link = long(self.extension(size, at)?);
                }
                _ => return self.member(&header, at, size, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// Reads the rest of the input, so that an input that hashes its stream has
    /// seen all of it, and returns the input.
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
        let path = (long_name.or_else(|| pax.path.take())).unwrap_or_else(|| name(header));
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
        self.end = self.offset;
        Ok(Entry {
            path,
            kind,
            attributes,
        })
    }

    /// A regular file whose header was just read: locates its content and the
    /// next header.
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
        } else if let Some(place) = pax.sparse.map_place() {
            path = pax.sparse.name.take().unwrap_or(path);
            self.end_at(stored, at)?;
            let begin = self.offset;
            let map = match place {
                MapPlace::Data => self.sparse_map_in_data(stored).map_err(|e| match e {
                    None => broken(&path),
                    Some(error) => error,
                })?,
                MapPlace::Header => pax.sparse.map.take().unwrap_or_default(),
            };
            let real = pax.sparse.size.unwrap_or(stored);
            let stored = stored
                .checked_sub(self.offset - begin)
                .ok_or_else(|| broken(&path))?;
            sparse_content(&map, real, self.offset, stored).ok_or_else(|| broken(&path))?
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

    /// Sets the end of the content: `size` bytes from here.
    fn end_at(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        let end = self.offset.checked_add(size);
        self.end = end
            .filter(|end| end.checked_next_multiple_of(BLOCK).is_some())
            .ok_or(TarError::Field {
                offset: at,
                field: "size",
            })?;
        Ok(())
    }

    /// Skips the padding to the next block; false if the input ends in it.
    fn skip_padding(&mut self) -> Result<bool, TarError> {
        let padding = (self.offset.next_multiple_of(BLOCK) - self.offset) as usize;
        let mut block = [0; BLOCK as usize];
        Ok(self.read_full(&mut block[..padding])? == padding)
    }

    /// Reads a header; `None` at the end: two zero blocks, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let offset = self.offset;
        let mut header = Header::new_old();
        for _ in 0..2 {
            if !self.fill_or_end(header.as_mut_bytes())? {
                return Ok(None);
            }
            if header.as_bytes().iter().any(|byte| *byte != 0) {
                // A single zero block before a header is as invalid as a bad checksum.
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
            false => Err(TarError::CutShort {
                offset: self.offset,
            }),
        }
    }

    /// Fills the buffer; false if no byte was left.
    fn fill_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, TarError> {
        match self.read_full(buffer)? {
            0 if !buffer.is_empty() => Ok(false),
            filled if filled == buffer.len() => Ok(true),
            _ => Err(TarError::CutShort {
                offset: self.offset,
            }),
        }
    }

    /// Fills the buffer as far as the input goes; returns the number of bytes.
    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
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
        Ok(filled)
    }
}

/// Whether the size of a member counts.
fn has_content(header: &Header) -> bool {
    !matches!(
        header.entry_type(),
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

/// The name in an extension header of GNU. An empty one does not count.
fn long(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    if let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(nul);
    }
    Some(bytes).filter(|name| !name.is_empty())
}

/// Whether these bytes begin with a tar header.
pub(crate) fn is_tar(bytes: &[u8]) -> bool {
    bytes
        .get(..BLOCK as usize)
        .is_some_and(|block| sum_is_right(Header::from_byte_slice(block)))
}

#[cfg(test)]
mod tests;
