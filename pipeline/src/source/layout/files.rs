//! The files of a layout in a directory or in a tar file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Files;
use crate::source::LayerStream;
use crate::source::archive::{Archive, read_small};
use crate::source::error::{ArchiveError, ArchiveProblem, Format};

/// The directory of a layout.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens the layout at `path`.
    pub(super) fn open(path: &Path) -> Result<Directory, ArchiveError> {
        if !path.exists() {
            return Err(ArchiveProblem::Absent.at(path));
        }
        let found = match path.is_dir() {
            true => Format::of_directory(path),
            false => Format::File,
        };
        if found != Format::OciLayout {
            let expected = "an OCI image layout directory";
            return Err(ArchiveProblem::OtherFormat { expected, found }.at(path));
        }
        Ok(Directory {
            path: path.to_owned(),
        })
    }

    fn file(&self, name: &str) -> Result<File, ArchiveError> {
        let path = self.path.join(name);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ArchiveProblem::Missing(name.to_owned()).at(&self.path),
            _ => ArchiveProblem::Open(error).at(&path),
        })
    }
}

impl Files for Directory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        read_small(self.file(name)?, &self.path, name)
    }

    fn stream(&self, name: &str, from: u64) -> Result<LayerStream<'_>, ArchiveError> {
        let mut file = self.file(name)?;
        file.seek(SeekFrom::Start(from))
            .map_err(|error| ArchiveProblem::Read(error).at(&self.path))?;
        Ok(Box::new(file))
    }
}

impl Files for Archive {
    fn path(&self) -> &Path {
        Archive::path(self)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        Archive::read(self, name)
    }

    fn stream(&self, name: &str, from: u64) -> Result<LayerStream<'_>, ArchiveError> {
        Ok(Box::new(Archive::stream(self, self.require(name)?, from)))
    }
}
