//! Limits of the memory that a tree and its file system take: an image decides how many files it
//! has and how long their names are, in a layer that may be a thousandth of that when compressed.
//! What is replaced or hidden counts too, because its inode stays in the tree.

use super::MergeProblem;
use crate::tree::{Edge, Inode, InodeKind};

/// The maximum number of inodes of all layers of an image.
pub(super) const MAX_INODES: usize = 1 << 22;
/// The maximum size of the tree in bytes. The half million files of a large image take 100 MiB.
pub(super) const MAX_MEMORY: u64 = 512 << 20;
/// The maximum number of inodes with a block of their own: directories, symbolic links of more than
/// 59 bytes, and extended attributes that do not fit into the inode. The writer of the file system
/// keeps these blocks, of 4 KiB each, in memory.
pub(super) const MAX_BLOCKS: u64 = 1 << 18;

/// The memory of a name besides its bytes: its place in the directory and its allocation.
const NAME: usize = size_of::<Edge>() + size_of::<Box<[u8]>>() + 32;
/// The memory of a directory with one name: a node of its map, which has place for eleven.
const DIRECTORY: usize = 11 * (size_of::<Edge>() + size_of::<Box<[u8]>>());
/// The longest target of a symbolic link, and about the size of the extended attributes, that an
/// inode holds.
const FAST_SYMLINK: usize = 59;
const INODE_XATTRS: usize = 64;

/// What the tree has taken so far.
#[derive(Debug, Default)]
pub(super) struct Budget {
    bytes: u64,
    blocks: u64,
}

impl Budget {
    /// Counts a name.
    pub(super) fn name(&mut self, name: &[u8]) -> Result<(), MergeProblem> {
        self.bytes(NAME + name.len())
    }

    /// Counts an inode.
    pub(super) fn inode(&mut self, inode: &Inode) -> Result<(), MergeProblem> {
        let mut bytes = size_of::<Inode>();
        let mut attributes = 0;
        for xattr in &inode.attributes.xattrs {
            attributes += size_of_val(xattr) + xattr.name.len() + xattr.value.len();
        }
        let own_block = match &inode.kind {
            InodeKind::Directory(_) => {
                bytes += DIRECTORY;
                true
            }
            InodeKind::Symlink { target } => {
                bytes += target.len();
                target.len() > FAST_SYMLINK
            }
            InodeKind::File { content, .. } => {
                bytes += size_of_val(content.segments.as_slice());
                false
            }
            _ => false,
        };
        self.blocks += u64::from(own_block) + u64::from(attributes > INODE_XATTRS);
        if self.blocks > MAX_BLOCKS {
            return Err(MergeProblem::TooManyBlocks);
        }
        self.bytes(bytes + attributes)
    }

    fn bytes(&mut self, bytes: usize) -> Result<(), MergeProblem> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        match self.bytes > MAX_MEMORY {
            true => Err(MergeProblem::TooLarge),
            false => Ok(()),
        }
    }
}
