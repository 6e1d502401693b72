//! The files of a specification, copied into the workspace before its setup runs.
//!
//! They belong to root. A directory of the host gives what is in it; directories that the guest has
//! keep their attributes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use microagent_proto::tree::WriteTree;
use microagent_tree::{Overrides, Source};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::machine::files::{FilesError, write_tree};
use crate::spec::FileCopy;

/// A file of a specification cannot be copied.
#[derive(Debug, thiserror::Error)]
#[error("files[{index}]")]
pub struct ProvisionError {
    /// Its number in the list.
    pub index: usize,
    /// The cause.
    pub source: ProvisionErrorKind,
}

/// Why a file of a specification cannot be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionErrorKind {
    /// It cannot be read.
    #[error("src {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is a device, a pipe or a socket.
    #[error("src {} is not a regular file or directory", .0.display())]
    Type(PathBuf),
    /// The files of a directory keep their own permissions.
    #[error("mode is for a file, and src {} is a directory", .0.display())]
    Mode(PathBuf),
    /// The guest refused it, or the session failed.
    #[error("dst {dst}")]
    Write {
        /// The destination.
        dst: String,
        /// The cause.
        source: FilesError,
    },
}

/// A file that is to be copied.
#[derive(Debug)]
pub struct Provision<'a> {
    index: usize,
    file: &'a FileCopy,
    /// Without symbolic links.
    path: PathBuf,
    is_directory: bool,
}

/// Checks all files, before any work starts.
///
/// # Errors
/// [`ProvisionError`].
pub fn check(files: &[FileCopy]) -> Result<Vec<Provision<'_>>, ProvisionError> {
    let files = files.iter().enumerate();
    let checked = files.map(|(index, file)| {
        let checked = check_one(index, file);
        checked.map_err(|source| ProvisionError { index, source })
    });
    checked.collect()
}

fn check_one(index: usize, file: &FileCopy) -> Result<Provision<'_>, ProvisionErrorKind> {
    let read = |source| ProvisionErrorKind::Read {
        path: file.src.clone(),
        source,
    };
    let path = std::fs::canonicalize(&file.src).map_err(read)?;
    let kind = std::fs::metadata(&path).map_err(read)?.file_type();
    match (kind.is_dir(), kind.is_file()) {
        (true, _) if file.mode.is_some() => Err(ProvisionErrorKind::Mode(file.src.clone())),
        (false, false) => Err(ProvisionErrorKind::Type(file.src.clone())),
        (is_directory, _) => Ok(Provision {
            index,
            file,
            path,
            is_directory,
        }),
    }
}

impl Provision<'_> {
    /// Copies it in a session with the agent. Returns how many device files and sockets of a
    /// directory were left out.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn copy(&self, stream: UnixStream) -> Result<u64, ProvisionError> {
        let failed = |source| ProvisionError {
            index: self.index,
            source,
        };
        let (directory, name) = self.open().map_err(|source| {
            let path = self.file.src.clone();
            failed(ProvisionErrorKind::Read { path, source })
        })?;
        let request = WriteTree {
            path: self.file.dst.clone().into_bytes(),
            name: self.name().as_bytes().to_vec(),
            contents: self.is_directory,
            provision: true,
        };
        let source = Source {
            directory: &directory,
            name: &name,
            cross_mounts: true,
        };
        let overrides = Overrides {
            owner: Some((0, 0)),
            mode: self.file.mode.map(|mode| mode.0),
        };
        write_tree(stream, request, source, overrides).map_err(|source| {
            let dst = self.file.dst.clone();
            failed(ProvisionErrorKind::Write { dst, source })
        })
    }

    /// Its name in a directory of the guest.
    fn name(&self) -> &OsStr {
        let named = self.file.src.file_name().or(self.path.file_name());
        named.unwrap_or(OsStr::new("root"))
    }

    /// The directory that has it, and its name there.
    fn open(&self) -> io::Result<(OwnedFd, OsString)> {
        let (directory, name) = match (self.path.parent(), self.path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (Path::new("/"), OsStr::new(".")),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, directory, flags, Mode::empty())?;
        Ok((directory, name.to_owned()))
    }
}
