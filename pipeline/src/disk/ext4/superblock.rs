//! Fields of the superblock that the writer does not set.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The maximum length of a volume label in bytes (`s_volume_name`).
pub(crate) const LABEL_BYTES: usize = 16;

/// Offset and length of the superblock (`struct ext4_super_block`).
const OFFSET: u64 = 1024;
const LENGTH: usize = 1024;
/// `s_last_mounted`: a NUL-terminated path.
const LAST_MOUNTED: usize = 0x88;
const LAST_MOUNTED_BYTES: usize = 64;
/// `s_checksum`, of all bytes before it.
const CHECKSUM: usize = 0x3fc;

/// Records the mount point, as the kernel does when it mounts a file system for writing. A path of
/// more than 63 bytes is truncated, as by the kernel. Only the primary superblock is updated: its
/// copies hold only what does not change while a file system is in use.
pub(crate) fn set_last_mounted(image: &File, path: &str) -> io::Result<()> {
    let mut superblock = [0; LENGTH];
    image.read_exact_at(&mut superblock, OFFSET)?;
    let field = &mut superblock[LAST_MOUNTED..LAST_MOUNTED + LAST_MOUNTED_BYTES];
    field.fill(0);
    for (to, from) in field[..LAST_MOUNTED_BYTES - 1].iter_mut().zip(path.bytes()) {
        *to = from;
    }
    let sum = mkext4::csum::superblock(&superblock);
    superblock[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    image.write_all_at(&superblock, OFFSET)
}
