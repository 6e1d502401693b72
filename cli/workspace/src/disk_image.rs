//! Ext4 images of the user: checked before they are used, and copied into the store.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use microagent_cas::{Digest, Store, StoreError};
use microagent_vmm::virtio::block::{BlockError, lock};

use crate::sparse;
use crate::spec::Access;

/// Offset of the superblock of an ext2, ext3 or ext4 file system in bytes, and offsets in it
/// (`struct ext4_super_block`): the magic number, the incompatible features, the number of blocks
/// (low and high half), and the binary logarithm of their size in KiB.
const SUPERBLOCK: u64 = 1024;
const MAGIC: (usize, [u8; 2]) = (0x38, 0xef53_u16.to_le_bytes());
const INCOMPATIBLE: usize = 0x60;
const BLOCKS: usize = 0x4;
const BLOCKS_HIGH: usize = 0x150;
const LOG_BLOCK_SIZE: usize = 0x18;
/// The journal must be replayed first (`EXT4_FEATURE_INCOMPAT_RECOVER`).
const RECOVER: u32 = 0x4;
/// Block numbers have 64 bits (`EXT4_FEATURE_INCOMPAT_64BIT`).
const BIT64: u32 = 0x80;
/// The largest block of ext4 has 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// Why a file is not a usable image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskImageError {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is of another type.
    #[error("not a regular file or block device")]
    NotAFile {
        /// It is a directory.
        directory: bool,
    },
    /// Another VM uses it, or it cannot be locked.
    #[error(transparent)]
    Lock(BlockError),
    /// Its superblock has another magic number.
    #[error("no ext4 file system")]
    NoExt4,
    /// Its journal must be replayed.
    #[error("was not unmounted cleanly")]
    Unclean,
    /// Its file system is larger than it is.
    #[error("truncated: its file system has {expected} bytes, the file only {actual}")]
    Truncated {
        /// The size of the file system.
        expected: u64,
        /// The size of the file.
        actual: u64,
    },
    /// It was written to while it was copied.
    #[error("changed while it was copied")]
    Changed,
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image that is open, and locked: no VM writes to it meanwhile.
#[derive(Debug)]
pub struct DiskImage {
    file: File,
    metadata: Metadata,
    superblock: [u8; 1024],
}

impl DiskImage {
    /// Opens an image to attach or to copy it.
    ///
    /// # Errors
    /// [`DiskImageError`].
    pub fn open(path: &Path, access: Access) -> Result<DiskImage, DiskImageError> {
        // Checked before the open, which can block forever on other file types.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return Err(DiskImageError::NotAFile {
                directory: metadata.is_dir(),
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Rw)
            .open(path)?;
        // The supervisor takes its own lock; this one reports a conflict before any work starts, and
        // ensures that no VM writes what is read below.
        lock(&file, path, access == Access::Rw).map_err(DiskImageError::Lock)?;
        let mut superblock = [0; 1024];
        match file.read_exact_at(&mut superblock, SUPERBLOCK) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(DiskImageError::NoExt4);
            }
            read => read?,
        }
        if superblock[MAGIC.0..MAGIC.0 + 2] != MAGIC.1 {
            return Err(DiskImageError::NoExt4);
        }
        Ok(DiskImage {
            metadata: file.metadata()?,
            file,
            superblock,
        })
    }

    /// Its device and inode number.
    pub fn identity(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// Whether its journal must be replayed, which needs write access.
    pub fn is_unclean(&self) -> bool {
        self.number(INCOMPATIBLE) & RECOVER != 0
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.metadata.is_file()
    }

    /// The size of the file in bytes; 0 for a device.
    pub fn size(&self) -> u64 {
        self.metadata.len()
    }

    /// Refuses a file that does not have all of its file system.
    ///
    /// # Errors
    /// [`DiskImageError::NoExt4`] if the superblock says nothing, [`DiskImageError::Truncated`].
    pub fn check_size(&self) -> Result<(), DiskImageError> {
        let high = match self.number(INCOMPATIBLE) & BIT64 {
            0 => 0,
            _ => self.number(BLOCKS_HIGH),
        };
        let blocks = u64::from(high) << 32 | u64::from(self.number(BLOCKS));
        let log = self.number(LOG_BLOCK_SIZE);
        if blocks == 0 || log > MAX_LOG_BLOCK_SIZE {
            return Err(DiskImageError::NoExt4);
        }
        let expected = blocks.saturating_mul(1024 << log);
        match self.size() {
            actual if actual < expected => Err(DiskImageError::Truncated { expected, actual }),
            _ => Ok(()),
        }
    }

    fn number(&self, offset: usize) -> u32 {
        let bytes = self.superblock[offset..offset + 4].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    /// Copies the file into the store, as a sparse object of at least `size` bytes. Later changes of
    /// the file do not reach it.
    ///
    /// # Errors
    /// [`DiskImageError`].
    pub fn import(&self, store: &Store, size: u64) -> Result<Digest, DiskImageError> {
        let scratch = store.scratch()?;
        let grow = || match size > self.size() {
            true => scratch.file().set_len(size),
            false => Ok(()),
        };
        sparse::copy(&self.file, scratch.file(), &AtomicBool::new(false))
            .and_then(|()| grow())
            .map_err(|error| StoreError::io("write an image in", store.root(), error))?;
        let state = |of: &Metadata| (of.len(), of.mtime(), of.mtime_nsec());
        if state(&self.file.metadata()?) != state(&self.metadata) {
            return Err(DiskImageError::Changed);
        }
        Ok(scratch.commit_sparse()?.0.digest())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use microagent_cas::Output;

    use super::*;

    fn superblock(blocks: u64, log: u32, incompatible: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        let mut put = |offset: usize, value: u32| {
            bytes[1024 + offset..1024 + offset + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(BLOCKS, blocks as u32);
        put(BLOCKS_HIGH, (blocks >> 32) as u32);
        put(LOG_BLOCK_SIZE, log);
        put(INCOMPATIBLE, incompatible);
        bytes[1024 + MAGIC.0..1024 + MAGIC.0 + 2].copy_from_slice(&MAGIC.1);
        bytes
    }

    fn check(bytes: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, bytes).unwrap();
        let checked = DiskImage::open(&path, Access::Ro).and_then(|image| image.check_size());
        checked.map_or_else(|error| error.to_string(), |()| "whole".to_owned())
    }

    #[test]
    fn a_file_has_all_of_its_file_system() {
        let none = "no ext4 file system";
        let cut = |expected: u64| {
            format!("truncated: its file system has {expected} bytes, the file only 65536")
        };
        for (bytes, expected) in [
            (superblock(64, 0, 0), "whole".to_owned()),
            (superblock(16, 2, 0), "whole".to_owned()),
            (superblock(65, 0, 0), cut(65 << 10)),
            (
                superblock(1 << 32 | 16, 2, BIT64),
                cut((1 << 44) + (64 << 10)),
            ),
            (superblock(1 << 32 | 16, 2, 0), "whole".to_owned()),
            (superblock(u64::MAX, 6, BIT64), cut(u64::MAX)),
            (superblock(0, 0, 0), none.to_owned()),
            (superblock(1, 7, 0), none.to_owned()),
            (superblock(1, u32::MAX, 0), none.to_owned()),
            (vec![0; 64 << 10], none.to_owned()),
            (superblock(1, 0, 0)[..2047].to_vec(), none.to_owned()),
            (Vec::new(), none.to_owned()),
        ] {
            assert_eq!(check(&bytes), expected);
        }
        let unclean = superblock(64, 0, RECOVER | BIT64);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, unclean).unwrap();
        assert!(DiskImage::open(&path, Access::Rw).unwrap().is_unclean());
    }

    #[test]
    fn a_copy_in_the_store_does_not_change_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("cas")).unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, superblock(64, 0, 0)).unwrap();
        let image = DiskImage::open(&path, Access::Ro).unwrap();
        let same = image.import(&store, 0).unwrap();
        assert_eq!(image.import(&store, 64 << 10).unwrap(), same);
        let larger = image.import(&store, 1 << 30).unwrap();
        assert_ne!(larger, same);
        fs::write(&path, superblock(32, 0, 0)).unwrap();
        assert_eq!(
            fs::read(store.sparse_path(&same)).unwrap(),
            superblock(64, 0, 0)
        );
        let size = store.output_size(&Output::Sparse(larger)).unwrap();
        assert_eq!(size, Some(1 << 30));
        let changed = image.import(&store, 0).unwrap_err();
        assert!(matches!(changed, DiskImageError::Changed), "{changed}");
    }
}
