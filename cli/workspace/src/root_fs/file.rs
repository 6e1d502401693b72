//! One file of a file system.

use microagent_tree::{Attribute, Entry, Kind, Time};
use mkext4::csum;
use mkext4::spec::inode::FileType;
use mkext4::spec::{Inode, XattrBlockView, ibody_entries};

use super::blocks::BLOCK;
use super::{RootFs, RootFsError};

/// `i_flags`: the file is encrypted (`EXT4_ENCRYPT_FL`).
const ENCRYPTED: u32 = 0x800;
/// `i_flags`: the content is in the inode (`EXT4_INLINE_DATA_FL`).
const INLINE: u32 = 0x1000_0000;

/// A file.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) number: u32,
    pub(super) inode: Inode,
    raw: Vec<u8>,
}

impl Node {
    pub(super) fn new(number: u32, inode: Inode, raw: Vec<u8>) -> Result<Node, RootFsError> {
        if inode.flags & (ENCRYPTED | INLINE) != 0 {
            let what = format!("inode {number} is encrypted or has inline content");
            return Err(RootFsError::Unsupported(what));
        }
        if inode.links_count == 0 || inode.file_type() == FileType::Unknown {
            return Err(RootFsError::damaged(format!(
                "inode {number} is not in use"
            )));
        }
        Ok(Node { number, inode, raw })
    }

    /// Its inode number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many names it has, as it says.
    pub fn links(&self) -> u32 {
        self.inode.links_count.into()
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.inode.file_type() == FileType::Dir
    }

    pub(super) fn is_symlink(&self) -> bool {
        self.inode.file_type() == FileType::Symlink
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.inode.file_type() == FileType::Regular
    }

    /// What changes with anything about the file but the time of the last access: whether two inodes
    /// with one number are the same, without their checksums.
    pub(super) fn identity(&self) -> Inode {
        Inode {
            atime: 0,
            atime_extra: 0,
            checksum: 0,
            ..self.inode.clone()
        }
    }

    /// The length of its content in bytes.
    pub fn size(&self) -> u64 {
        self.inode.size
    }
}

impl RootFs {
    /// The entry of a file, with this path.
    ///
    /// # Errors
    /// [`RootFsError`].
    pub fn entry(&self, node: &Node, path: &[u8]) -> Result<Entry, RootFsError> {
        let inode = &node.inode;
        let (seconds, nanos) = Inode::timestamp(inode.mtime, inode.mtime_extra);
        Ok(Entry {
            path: path.to_vec(),
            kind: self.kind(node)?,
            mode: u32::from(inode.mode & 0o7777),
            uid: inode.uid,
            gid: inode.gid,
            modified: Time {
                seconds,
                nanos: nanos.min(999_999_999),
            },
            attributes: self.attributes(node)?,
        })
    }

    fn kind(&self, node: &Node) -> Result<Kind, RootFsError> {
        let numbers = node.inode.dev_numbers().unwrap_or_default();
        Ok(match node.inode.file_type() {
            FileType::Regular => Kind::File {
                size: node.inode.size,
            },
            FileType::Dir => Kind::Directory,
            FileType::Symlink => Kind::Symlink {
                target: self.target(node)?,
            },
            FileType::CharDev => Kind::CharDevice {
                major: numbers.0,
                minor: numbers.1,
            },
            FileType::BlockDev => Kind::BlockDevice {
                major: numbers.0,
                minor: numbers.1,
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => return Err(RootFsError::damaged("a file of an unknown type")),
        })
    }

    /// What a symbolic link points to.
    pub(super) fn target(&self, node: &Node) -> Result<Vec<u8>, RootFsError> {
        let target = match node.inode.fast_symlink_target() {
            Some(target) => target.to_vec(),
            None if node.inode.size < BLOCK => {
                let mut target = Vec::new();
                self.content(node, &mut |part| {
                    target.extend_from_slice(part.bytes()?);
                    Ok::<_, RootFsError>(())
                })?;
                target
            }
            None => return Err(RootFsError::damaged("a symbolic link that is too long")),
        };
        match target.is_empty() || target.contains(&0) {
            true => Err(RootFsError::damaged("a symbolic link without a target")),
            false => Ok(target),
        }
    }

    /// The extended attributes, sorted by name.
    fn attributes(&self, node: &Node) -> Result<Vec<Attribute>, RootFsError> {
        let mut entries = ibody_entries(&node.raw, node.inode.extra_isize)?;
        if node.inode.file_acl != 0 {
            self.budget.metadata()?;
            let block = self.block(node.inode.file_acl)?;
            let view = XattrBlockView::parse(&block)?;
            if self.has_checksums()
                && view.checksum != csum::xattr_block(self.seed(), node.inode.file_acl, &block)
            {
                return Err(RootFsError::damaged("attributes have a wrong checksum"));
            }
            entries.extend(view.entries);
        }
        let mut attributes = Vec::new();
        for entry in entries {
            let Some(name) = entry.full_name() else {
                return Err(RootFsError::damaged("an attribute of an unknown namespace"));
            };
            let value = match entry.name_index {
                ACL_ACCESS | ACL_DEFAULT => acl(&entry.value)
                    .ok_or_else(|| RootFsError::damaged("an access control list"))?,
                _ => entry.value,
            };
            attributes.push(Attribute { name, value });
        }
        attributes.sort_unstable();
        Ok(attributes)
    }
}

/// The indexes of the names of access control lists (`EXT4_XATTR_INDEX_POSIX_ACL_ACCESS` and
/// `_DEFAULT`).
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// An access control list as the kernel shows it (`posix_acl_xattr_header`, version 2: entries of 8
/// bytes) from what ext4 stores (`fs/ext4/acl.h`, version 1: of 4 or 8 bytes).
fn acl(stored: &[u8]) -> Option<Vec<u8>> {
    let mut rest = stored.strip_prefix(&1_u32.to_le_bytes())?;
    let mut shown = 2_u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (entry, after) = rest.split_at_checked(4)?;
        rest = after;
        shown.extend_from_slice(entry);
        // The entries of a user or a group have an id.
        match entry.first()? {
            0x02 | 0x08 => {
                let (id, after) = rest.split_at_checked(4)?;
                rest = after;
                shown.extend_from_slice(id);
            }
            _ => shown.extend_from_slice(&u32::MAX.to_le_bytes()),
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_control_list_is_shown_as_by_the_kernel() {
        // user::rw-, user:1000:r--, mask::r--, other::---
        let stored = [
            1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0, 0x10, 0, 4, 0, 0x20, 0, 0, 0,
        ];
        let mut shown = vec![2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
        shown.extend([2, 0, 4, 0, 0xe8, 3, 0, 0]);
        shown.extend([0x10, 0, 4, 0, 255, 255, 255, 255]);
        shown.extend([0x20, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(acl(&stored).unwrap(), shown);
        assert_eq!(acl(&stored[..10]), None);
        assert_eq!(acl(b""), None);
    }
}
