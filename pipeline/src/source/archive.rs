//! Random access to the members of a tar file on disk, without extracting it. What has no random
//! access (a compressed file, a pipe) is first copied, decompressed, to scratch space of the store.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store, StoreError};

use super::error::{ArchiveError, ArchiveProblem, Format, SourceFailure};
use crate::image::manifest::MAX_DOCUMENT;
use crate::tar::decompress::{self, Compression};
use crate::tar::entry::{EntryKind, display_name};
use crate::tar::reader::{TarError, TarReader};
use crate::tar::stream::MAX_UNPACKED;

/// Maximum number of members of an archive.
const MAX_MEMBERS: usize = 1 << 16;
/// The size of a read from a pipe or a compressed file, in bytes.
const CHUNK: usize = 256 << 10;
/// Maximum number of links from a name to a member.
const MAX_LINKS: usize = 8;

/// Opens the file at `path`.
pub(crate) fn open_file(path: &Path) -> Result<File, ArchiveError> {
    File::open(path).map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => ArchiveProblem::Absent,
            _ => ArchiveProblem::Open(error),
        };
        problem.at(path)
    })
}

/// Reads a file of at most [`MAX_DOCUMENT`] bytes.
pub(crate) fn read_small(
    file: impl Read,
    path: &Path,
    name: &str,
) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    (file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
        .map_err(|error| ArchiveProblem::Read(error).at(path))?;
    match bytes.len() as u64 > MAX_DOCUMENT {
        true => Err(ArchiveProblem::TooLong { name: name.into() }.at(path)),
        false => Ok(bytes),
    }
}

/// A tar file and an index of its members.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    members: HashMap<String, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    File(Extent),
    /// Some versions of `docker save` write identical layers as links.
    Link(String),
}

/// The location of a member's content in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Archive {
    /// Opens `path` and reads the headers of its members. `store` provides scratch space.
    ///
    /// # Errors
    /// When it is not a readable tar, or the scratch space cannot be written.
    pub(crate) fn open(path: &Path, store: &Store) -> Result<Archive, SourceFailure> {
        let file = open_file(path)?;
        let problem = |problem: ArchiveProblem| problem.at(path);
        let metadata = file
            .metadata()
            .map_err(|e| problem(ArchiveProblem::Open(e)))?;
        let is_pipe = metadata.file_type().is_fifo() || metadata.file_type().is_socket();
        if metadata.is_dir() {
            let expected = "a regular file or a pipe";
            let found = Format::of_directory(path);
            return Err(problem(ArchiveProblem::OtherFormat { expected, found }).into());
        }
        if !metadata.is_file() && !is_pipe {
            let expected = "a regular file or a pipe";
            return Err(problem(ArchiveProblem::UnexpectedFormat(expected)).into());
        }
        let read = |error| problem(ArchiveProblem::Read(error));
        let copy = {
            let input = BufReader::with_capacity(CHUNK, &file);
            let (first, mut input) = decompress::peek(input).map_err(read)?;
            let compression = decompress::detect(&first)
                .map_err(|foreign| problem(ArchiveProblem::Compressed(foreign.0)))?;
            match compression {
                Compression::None if !is_pipe => None,
                Compression::None => Some(copied(&mut input, path, store)?),
                compression => {
                    let mut decoder = decompress::reader(input, compression).map_err(read)?;
                    Some(copied(&mut decoder, path, store)?)
                }
            }
        };
        let mut file = copy.unwrap_or(file);
        file.rewind().map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let members = members(&file, length).map_err(problem)?;
        Ok(Archive {
            path: path.to_owned(),
            file,
            members,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the file `name`, in any spelling (`./x`, `a//x`), following links.
    pub(crate) fn find(&self, name: &str) -> Option<Extent> {
        let mut name = relative("", name);
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File(extent) => return Some(*extent),
                Member::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// Finds the file `name`, following links, or returns an error.
    pub(crate) fn require(&self, name: &str) -> Result<Extent, ArchiveError> {
        self.find(name)
            .ok_or_else(|| ArchiveProblem::Missing(name.to_owned()).at(&self.path))
    }

    /// The error for an archive that is not `expected`.
    pub(crate) fn is_not(&self, expected: &'static str) -> ArchiveError {
        let has = |name: &str| self.find(name).is_some();
        // The shortest, so that the message is always the same.
        let below = || {
            let names = self.members.keys();
            let below = names.filter_map(|name| name.strip_suffix("/index.json"));
            below.min_by_key(|directory| (directory.len(), *directory))
        };
        let found = match (has("index.json"), has("manifest.json"), has("repositories")) {
            (true, _, _) => Format::OciArchive,
            (_, true, _) => Format::DockerArchive,
            (_, _, true) => Format::OldDockerArchive,
            _ => match below() {
                Some(directory) => Format::OciSubdirectory(directory.to_owned()),
                None => return ArchiveProblem::UnexpectedFormat(expected).at(&self.path),
            },
        };
        ArchiveProblem::OtherFormat { expected, found }.at(&self.path)
    }

    /// Reads a member of at most [`MAX_DOCUMENT`] bytes.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let extent = self.require(name)?;
        let bytes = read_small(self.stream(extent, 0), &self.path, name)?;
        match bytes.len() as u64 == extent.size {
            true => Ok(bytes),
            false => Err(ArchiveProblem::Tar(TarError::CutShort {
                offset: extent.offset + bytes.len() as u64,
            })
            .at(&self.path)),
        }
    }

    /// Returns a reader of a member from offset `from` on.
    pub(crate) fn stream(&self, extent: Extent, from: u64) -> ExtentReader<'_> {
        let from = from.min(extent.size);
        ExtentReader {
            file: &self.file,
            offset: extent.offset.saturating_add(from),
            left: extent.size - from,
        }
    }
}

/// A copy of `input` in scratch space, which is freed with the returned file.
fn copied(input: &mut dyn Read, path: &Path, store: &Store) -> Result<File, SourceFailure> {
    let scratch = store.scratch()?;
    let write = |error| StoreError::io("write to", scratch.path(), error);
    let mut file = scratch.file().try_clone().map_err(write)?;
    let mut buffer = vec![0; CHUNK];
    let mut size = 0;
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveProblem::Read(error).at(path).into()),
        };
        size += read as u64;
        if size > MAX_UNPACKED {
            return Err(ArchiveProblem::TooLarge.at(path).into());
        }
        file.write_all(&buffer[..read]).map_err(write)?;
    }
}

/// Reads a range of a file without changing the file position.
#[derive(Debug)]
pub(crate) struct ExtentReader<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn members(file: &File, length: u64) -> Result<HashMap<String, Member>, ArchiveProblem> {
    let mut members = HashMap::new();
    let mut tar = TarReader::seekable(Seekable {
        file: BufReader::new(file),
        length,
    });
    while let Some(entry) = tar.next_entry().map_err(|error| match error {
        TarError::NoHeader { offset: 0 } => ArchiveProblem::UnexpectedFormat("a tar file"),
        error => ArchiveProblem::Tar(error),
    })? {
        let name = member_name(&entry.path);
        let member = match entry.kind {
            EntryKind::File(content) => match content.segments.as_slice() {
                [] => Member::File(Extent { offset: 0, size: 0 }),
                [segment] if segment.length == content.size => Member::File(Extent {
                    offset: segment.offset,
                    size: content.size,
                }),
                _ => continue,
            },
            EntryKind::Hardlink { target } => Member::Link(member_name(&target)),
            EntryKind::Symlink { target } => {
                let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                Member::Link(relative(directory, &display_name(&target)))
            }
            _ => continue,
        };
        if members.len() >= MAX_MEMBERS {
            return Err(ArchiveProblem::UnexpectedFormat(
                "an image archive: too many members",
            ));
        }
        members.insert(name, member);
    }
    Ok(members)
}

fn member_name(path: &[u8]) -> String {
    relative("", &String::from_utf8_lossy(path))
}

/// Resolves `name` relative to `directory` and normalises `.` and `..`.
fn relative(directory: &str, name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The path of a blob in a layout.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A file that can skip data without reading it. Seeking beyond its end is an
/// error, because the archive is truncated then.
struct Seekable<'a> {
    file: BufReader<&'a File>,
    length: u64,
}

impl Read for Seekable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Seekable<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        if let SeekFrom::Current(forward) = position {
            let at = self.file.stream_position()?;
            if at
                .checked_add_signed(forward)
                .is_none_or(|to| to > self.length)
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.file.seek_relative(forward)?;
            return Ok(at.saturating_add_signed(forward));
        }
        self.file.seek(position)
    }
}

#[cfg(test)]
mod tests;
