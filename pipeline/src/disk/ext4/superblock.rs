//! What the superblock says of a file system and our writer does not set.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How long a volume label is at most (`s_volume_name`).
pub(crate) const LABEL_BYTES: usize = 16;

/// Where the superblock is, and how long it is (`struct ext4_super_block`).
const OFFSET: u64 = 1024;
const LENGTH: usize = 1024;
/// `s_last_mounted`: a path that ends with a zero.
const LAST_MOUNTED: usize = 0x88;
const LAST_MOUNTED_BYTES: usize = 64;
/// `s_checksum`, of all that is before it.
const CHECKSUM: usize = 0x3fc;

/// Records where the file system belongs, as the kernel does when it mounts one to be written.
/// A path of more than 63 bytes is cut, as the kernel cuts it. Only the first superblock has it:
/// copies of it hold what does not change while a file system is used.
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
