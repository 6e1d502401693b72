//! placeholder
use crate::error::{Diagnosis, Error, ErrorKind};
use crate::ext4::Size;
use crate::tree::Tree;
use microagent_cas::{Digest, Store};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Why
#[derive(Debug, thiserror::Error)]
pub enum Mke2fsError {
    /// x
    #[error("{} cannot be run", path.display())]
    Missing {
        /// x
        path: PathBuf,
    },
}
impl Diagnosis for Mke2fsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Host
    }
}
pub(crate) struct Mke2fs;
impl Mke2fs {
    pub(crate) fn find(path: &Path) -> Result<Mke2fs, Error> {
        Err(Mke2fsError::Missing { path: path.into() }.into())
    }
    pub(crate) fn inputs(&self) -> Vec<(String, Digest)> {
        Vec::new()
    }
    pub(crate) fn build(
        &self,
        _: &Store,
        _: &Tree,
        _: &[File],
        _: &Digest,
        _: Size,
    ) -> Result<Digest, Error> {
        unreachable!()
    }
}
