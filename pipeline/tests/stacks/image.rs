//! Reads the tree in an ext4 image, parsed after the kernel's
//! `Documentation/filesystems/ext4`.
//!
//! `ext4-view` does not expose extended attributes, device numbers or inode
//! numbers; `debugfs` needs a process per directory and cannot look up a name with
//! a newline. For some of the images the kernel's own view is compared as well
//! ([`crate::kernel`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::tree::{BLOCK, Content, Inode, InodeKind, Tree};

const ROOT: u32 = 2;
const EXTENTS_FLAG: u32 = 0x8_0000;

/// Reads a whole image.
///
/// # Panics
/// If the image is not valid ext4 with the features expected here.
pub fn read(path: &Path) -> Tree {
    let file = File::open(path).unwrap();
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024).unwrap();
    assert_eq!(u16_at(&superblock, 0x38), 0xef53, "magic");
    assert_eq!(1024 << u32_at(&superblock, 0x18), BLOCK, "block size");
    let image = Image {
        inodes_per_group: u32_at(&superblock, 0x28),
        inode_size: u64::from(u16_at(&superblock, 0x58)),
        // The field is valid only with the feature `64bit`.
        descriptor_size: match u32_at(&superblock, 0x60) & 0x80 {
            0 => 32,
            _ => u64::from(u16_at(&superblock, 0xfe)),
        },
        file,
    };
    let mut tree = Tree::default();
    let mut pending = vec![(b"/".to_vec(), ROOT)];
    while let Some((name, number)) = pending.pop() {
        let inode = u64::from(number);
        let known = tree.inodes.contains_key(&inode);
        assert!(
            tree.names.insert(name.clone(), inode).is_none(),
            "duplicate name"
        );
        if known {
            continue;
        }
        let raw = image.inode(number);
        let found = image.decoded(&raw);
        if found.kind == InodeKind::Directory {
            let parent = if name == b"/" { Vec::new() } else { name };
            for (part, number) in image.entries(&raw) {
                pending.push(([&parent[..], b"/", &part].concat(), number));
            }
        }
        tree.inodes.insert(inode, found);
    }
    tree
}

struct Image {
    file: File,
    inodes_per_group: u32,
    inode_size: u64,
    descriptor_size: u64,
}

impl Image {
    fn block(&self, number: u64) -> Vec<u8> {
        self.bytes(number * BLOCK as u64, BLOCK)
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn inode(&self, number: u32) -> Vec<u8> {
        let (group, index) = (
            u64::from((number - 1) / self.inodes_per_group),
            u64::from((number - 1) % self.inodes_per_group),
        );
        // The descriptors follow the block of the superblock.
        let at = BLOCK as u64 + group * self.descriptor_size;
        let mut descriptor = self.bytes(at, self.descriptor_size as usize);
        descriptor.resize(64, 0);
        let table = joined(u32_at(&descriptor, 0x28), u32_at(&descriptor, 0x8));
        let at = table * BLOCK as u64 + index * self.inode_size;
        self.bytes(at, self.inode_size as usize)
    }

    fn decoded(&self, raw: &[u8]) -> Inode {
        let mode = u16_at(raw, 0);
        let size = joined(u32_at(raw, 0x6c), u32_at(raw, 0x4));
        let extra = u32_at(raw, 0x88);
        let seconds = i64::from(u32_at(raw, 0x10) as i32) + (i64::from(extra & 3) << 32);
        let (new, old) = (u32_at(raw, 0x2c), u32_at(raw, 0x28));
        // include/linux/kdev_t.h: old_decode_dev, new_decode_dev.
        let device = match old {
            0 => ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            old => (old >> 8, old & 0xff),
        };
        let kind = match mode >> 12 {
            0x4 => InodeKind::Directory,
            0x8 => {
                let mut content = Content {
                    size,
                    ..Content::default()
                };
                content.blocks = self.blocks(raw);
                InodeKind::File(content.without_zeros())
            }
            0xa if size < 60 => InodeKind::Symlink(raw[0x28..][..size as usize].to_vec()),
            0xa => {
                let mut target = self
                    .blocks(raw)
                    .into_values()
                    .flatten()
                    .collect::<Vec<u8>>();
                target.truncate(size as usize);
                InodeKind::Symlink(target)
            }
            0x2 => InodeKind::Char(device.0, device.1),
            0x6 => InodeKind::Block(device.0, device.1),
            0x1 => InodeKind::Fifo,
            other => panic!("inode of type {other:x}"),
        };
        Inode {
            kind,
            mode: mode & 0o7777,
            uid: u32::from(u16_at(raw, 0x78)) << 16 | u32::from(u16_at(raw, 0x2)),
            gid: u32::from(u16_at(raw, 0x7a)) << 16 | u32::from(u16_at(raw, 0x18)),
            mtime: (seconds, extra >> 2),
            xattrs: self.xattrs(raw),
        }
    }

    /// Returns the blocks of an inode by their logical block number.
    fn blocks(&self, raw: &[u8]) -> BTreeMap<u64, Vec<u8>> {
        assert_ne!(u32_at(raw, 0x20) & EXTENTS_FLAG, 0, "no extents");
        let mut blocks = BTreeMap::new();
        let mut pending = vec![raw[0x28..][..60].to_vec()];
        while let Some(node) = pending.pop() {
            assert_eq!(u16_at(&node, 0), 0xf30a, "extent magic");
            let (count, depth) = (usize::from(u16_at(&node, 2)), u16_at(&node, 6));
            for entry in node[12..].chunks(12).take(count) {
                if depth > 0 {
                    let below = joined(u32::from(u16_at(entry, 8)), u32_at(entry, 4));
                    pending.push(self.block(below));
                    continue;
                }
                let (logical, length) = (u64::from(u32_at(entry, 0)), u16_at(entry, 4));
                assert!(length <= 32768, "unwritten extent");
                let physical = joined(u32::from(u16_at(entry, 6)), u32_at(entry, 8));
                for block in 0..u64::from(length) {
                    blocks.insert(logical + block, self.block(physical + block));
                }
            }
        }
        blocks
    }

    /// Returns the names in a directory. The index blocks of an htree directory
    /// look like unused entries to a linear reader, by design of the format.
    fn entries(&self, raw: &[u8]) -> Vec<(Vec<u8>, u32)> {
        let mut entries = Vec::new();
        for block in self.blocks(raw).into_values() {
            let mut at = 0;
            while at < BLOCK {
                let (number, length) = (u32_at(&block, at), u16_at(&block, at + 4));
                let name = &block[at + 8..][..usize::from(block[at + 6])];
                if number != 0 && !matches!(name, b"." | b"..") {
                    entries.push((name.to_vec(), number));
                }
                assert!(length >= 8, "directory entry of length zero");
                at += usize::from(length);
            }
        }
        entries
    }

    fn xattrs(&self, raw: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        const MAGIC: u32 = 0xea02_0000;
        let mut found = BTreeMap::new();
        // After the inode's fields; value offsets are relative to the first entry.
        let begin = 128 + usize::from(u16_at(raw, 0x80));
        if begin + 4 <= raw.len() && u32_at(raw, begin) == MAGIC {
            attributes(&raw[begin + 4..], 0, &mut found);
        }
        let block = joined(u32::from(u16_at(raw, 0x76)), u32_at(raw, 0x68));
        if block != 0 {
            let block = self.block(block);
            assert_eq!(u32_at(&block, 0), MAGIC, "attribute block");
            attributes(&block, 32, &mut found);
        }
        found
    }
}

fn attributes(area: &[u8], mut at: usize, found: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    while u32_at(area, at) != 0 {
        let (length, index) = (usize::from(area[at]), area[at + 1]);
        let (offset, size) = (usize::from(u16_at(area, at + 2)), u32_at(area, at + 8));
        let space: &[u8] = match index {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => panic!("attribute of namespace {other}"),
        };
        let name = [space, &area[at + 16..][..length]].concat();
        let mut value = area[offset..][..size as usize].to_vec();
        if matches!(index, 2 | 3) {
            value = acl(&value);
        }
        assert!(found.insert(name, value).is_none(), "duplicate attribute");
        at += 16 + length.next_multiple_of(4);
    }
}

/// Converts an access control list from ext4's format (`fs/ext4/acl.h`) to that
/// of `getxattr(2)` (`linux/posix_acl_xattr.h`).
fn acl(stored: &[u8]) -> Vec<u8> {
    assert_eq!(u32_at(stored, 0), 1, "version");
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut rest = &stored[4..];
    while !rest.is_empty() {
        let has_id = matches!(u16_at(rest, 0), 0x2 | 0x8);
        value.extend(&rest[..4]);
        value.extend(if has_id { &rest[4..8] } else { &[0xff; 4] });
        rest = &rest[if has_id { 8 } else { 4 }..];
    }
    value
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at + 2)) << 16 | u32::from(u16_at(bytes, at))
}

fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
