//! From a disk's configuration to its device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use microagent_proto::control::{DiskConfig, DiskMode};

use super::{Backend, Block, Overlay, Raw, SECTOR};

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The image cannot be opened as its mode asks.
    #[error("cannot open disk {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image is empty or ends within a sector.
    #[error("disk {} has {len} bytes, which is not a whole number of 512-byte sectors above zero", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
    },
    /// The delta of an overlay cannot be made.
    #[error("cannot create a disk delta in {}", dir.display())]
    Delta {
        /// The directory it was to be in.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Opens a disk. `id` is what the guest finds as its serial number.
///
/// # Errors
/// [`BlockError`], which names the file.
pub fn open(config: &DiskConfig, id: &str) -> Result<Block, BlockError> {
    let writable = config.mode == DiskMode::ReadWrite;
    let (file, len) = open_image(&config.path, writable)?;
    let backend: Box<dyn Backend> = match &config.mode {
        DiskMode::ReadOnly | DiskMode::ReadWrite => Box::new(Raw::new(file, len, !writable)),
        DiskMode::Overlay { scratch_dir } => {
            let overlay = tempfile::tempfile_in(scratch_dir)
                .and_then(|delta| Overlay::new(file, len, delta))
                .map_err(|source| BlockError::Delta {
                    dir: scratch_dir.clone(),
                    source,
                })?;
            Box::new(overlay)
        }
    };
    Ok(Block::new(backend, id))
}

fn open_image(path: &Path, writable: bool) -> Result<(File, u64), BlockError> {
    let open = || {
        let mut file = OpenOptions::new().read(true).write(writable).open(path)?;
        // Seeking finds the size of block devices too.
        let len = file.seek(SeekFrom::End(0))?;
        Ok((file, len))
    };
    let (file, len) = open().map_err(|source| BlockError::Open {
        path: path.to_owned(),
        source,
    })?;
    if len == 0 || !len.is_multiple_of(SECTOR) {
        return Err(BlockError::Size {
            path: path.to_owned(),
            len,
        });
    }
    Ok((file, len))
}
