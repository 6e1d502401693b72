//! Removes the directory `/lost+found` that the writer puts into every file system, so that an
//! image has exactly the files of its tree. ext4 does not need it: `e2fsck` makes one when it
//! has something to put there.
//!
//! The writer reserves the name, so a `lost+found` of the tree's own is declared under a
//! [`placeholder`] and takes over the entry of the removed directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mkext4::csum;
use mkext4::reader::Fs;
use mkext4::spec::{DirentIter, GroupDesc, INODE_SIZE, LINK_MAX, dirent};

use super::BLOCK;
use super::raw_names::{ReplaceError, inode_offset, put, set_inode_checksum, write};

/// The name.
pub(super) const NAME: &[u8] = b"lost+found";
/// The writer's inode for it.
const INODE: u32 = 11;
const ROOT: u32 = 2;

/// Offsets in an inode, a group descriptor and the superblock (`fs/ext4/ext4.h`).
const I_LINKS_COUNT: usize = 0x1a;
const BG_CHECKSUM: usize = 0x1e;
const SUPERBLOCK: u64 = 1024;
const S_FREE_BLOCKS: usize = 0x0c;
const S_FREE_INODES: usize = 0x10;
const S_CHECKSUM: usize = 0x3fc;
/// The size of a group descriptor without the feature `64bit`.
const DESCRIPTOR: u64 = 32;

/// A name for the tree's own `lost+found` that is not taken.
pub(super) fn placeholder(taken: &dyn Fn(&str) -> bool) -> String {
    let mut name = "lost+found~".to_owned();
    while taken(&name) {
        name.push('~');
    }
    name
}

/// Removes the directory from an image with this `placeholder`, if any; `directories` is the number
/// of directories in the root directory of the tree.
pub(super) fn remove(
    image: &File,
    placeholder: Option<&str>,
    directories: u32,
) -> Result<(), ReplaceError> {
    let fs = Fs::open(image)?;
    replace_entry(&fs, image, placeholder)?;
    let mut root = fs.inode_raw(ROOT)?;
    let links = match 2 + directories {
        // The feature `dir_nlink`.
        links if links > LINK_MAX => 1,
        links => links,
    };
    put(&mut root, I_LINKS_COUNT, &(links as u16).to_le_bytes())?;
    set_inode_checksum(&fs, ROOT, &mut root)?;
    write(image, inode_offset(&fs, ROOT)?, &root)?;
    let freed = free_blocks(&fs, image)?;
    let inode = inode_offset(&fs, INODE)?;
    write(image, inode, &[0; INODE_SIZE])?;
    let mut superblock = [0; 1024];
    image
        .read_exact_at(&mut superblock, SUPERBLOCK)
        .map_err(ReplaceError::Image)?;
    for (at, more) in [(S_FREE_BLOCKS, freed), (S_FREE_INODES, 1)] {
        let field = superblock[at..].first_chunk().copied().unwrap_or_default();
        let count = u32::from_le_bytes(field) + more;
        put(&mut superblock, at, &count.to_le_bytes())?;
    }
    let sum = csum::superblock(&superblock).to_le_bytes();
    put(&mut superblock, S_CHECKSUM, &sum)?;
    write(image, SUPERBLOCK, &superblock)
}

/// Removes the entry in the root directory, or gives it to the inode of the placeholder.
fn replace_entry(
    fs: &Fs<&File>,
    image: &File,
    placeholder: Option<&str>,
) -> Result<(), ReplaceError> {
    let own = match placeholder {
        Some(name) => {
            let entries = fs.read_dir(ROOT)?;
            let own = entries.iter().find(|entry| entry.name == name.as_bytes());
            Some(
                own.map(|own| (own.inode, own.file_type))
                    .ok_or_else(damaged)?,
            )
        }
        None => None,
    };
    let inode = fs.inode(ROOT)?;
    let seed = csum::inode_seed(fs.fs_seed(), ROOT, inode.generation);
    for extent in fs.extents(ROOT, &inode)? {
        for number in extent.physical..extent.physical + u64::from(extent.len) {
            let mut block = fs.read_block(number)?;
            // The index blocks of a sorted directory have no checksum tail.
            if dirent::tail_checksum(&block).is_none() {
                continue;
            }
            let removed = match placeholder {
                Some(name) => name.as_bytes(),
                None => NAME,
            };
            let mut changed = remove_name(&mut block, removed)?;
            if let Some((inode, kind)) = own
                && let Some(offset) = find(&block, NAME)?.map(|(_, offset)| offset)
            {
                put(&mut block, offset, &inode.to_le_bytes())?;
                put(&mut block, offset + 7, &[kind])?;
                changed = true;
            }
            if changed {
                let sum = csum::dirent_block(seed, &block).to_le_bytes();
                let end = block.len() - sum.len();
                put(&mut block, end, &sum)?;
                write(image, number * BLOCK, &block)?;
            }
        }
    }
    Ok(())
}

/// The offset of the entry with this name in a block, and that of the entry before it.
fn find(block: &[u8], name: &[u8]) -> Result<Option<(Option<usize>, usize)>, ReplaceError> {
    let mut before = None;
    for entry in DirentIter::new(block) {
        let entry = entry?;
        if entry.name == name {
            return Ok(Some((before, entry.offset)));
        }
        before = Some(entry.offset);
    }
    Ok(None)
}

/// Removes the entry with this name as the kernel does: its space goes to the entry before it, or
/// it remains without an inode.
fn remove_name(block: &mut [u8], name: &[u8]) -> Result<bool, ReplaceError> {
    let Some((before, offset)) = find(block, name)? else {
        return Ok(false);
    };
    let length = |block: &[u8], at: usize| {
        let field = block[at + 4..].first_chunk().copied().unwrap_or_default();
        u16::from_le_bytes(field)
    };
    let own = length(block, offset);
    match before {
        Some(before) => {
            let end = offset + usize::from(own);
            let sum = (end - before) as u16;
            put(block, before + 4, &sum.to_le_bytes())?;
            put(block, offset, &vec![0; usize::from(own)])?;
        }
        None => {
            put(block, offset, &vec![0; usize::from(own)])?;
            put(block, offset + 4, &own.to_le_bytes())?;
        }
    }
    Ok(true)
}

/// Frees the directory's inode and blocks in the bitmaps and the group descriptors, and clears the
/// blocks; returns how many there were.
fn free_blocks(fs: &Fs<&File>, image: &File) -> Result<u32, ReplaceError> {
    let per_group = u64::from(fs.superblock().blocks_per_group);
    let mut freed = 0;
    let inode = fs.inode(INODE)?;
    for extent in fs.extents(INODE, &inode)? {
        for block in extent.physical..extent.physical + u64::from(extent.len) {
            write(image, block * BLOCK, &[0; BLOCK as usize])?;
            change_group(image, fs, block / per_group, |group, image| {
                let offset = group.block_bitmap * BLOCK;
                let bitmap = clear_bit(image, offset, block % per_group)?;
                group.block_bitmap_csum = csum::block_bitmap(fs.fs_seed(), &bitmap).into();
                group.free_blocks_count += 1;
                Ok(())
            })?;
            freed += 1;
        }
    }
    change_group(image, fs, 0, |group, image| {
        let bitmap = clear_bit(image, group.inode_bitmap * BLOCK, u64::from(INODE - 1))?;
        let inodes = fs.superblock().inodes_per_group;
        let sum = csum::inode_bitmap(fs.fs_seed(), &bitmap, inodes);
        group.inode_bitmap_csum = sum.into();
        group.free_inodes_count += 1;
        group.used_dirs_count -= 1;
        Ok(())
    })?;
    Ok(freed)
}

/// Changes a group descriptor, as it is in the image, and its checksum.
fn change_group(
    image: &File,
    fs: &Fs<&File>,
    number: u64,
    change: impl FnOnce(&mut GroupDesc, &File) -> Result<(), ReplaceError>,
) -> Result<(), ReplaceError> {
    if fs.superblock().desc_size() as u64 != DESCRIPTOR {
        return Err(damaged());
    }
    // The descriptors follow the block of the superblock.
    let offset = BLOCK + number * DESCRIPTOR;
    let mut raw = [0; DESCRIPTOR as usize];
    image
        .read_exact_at(&mut raw, offset)
        .map_err(ReplaceError::Image)?;
    let mut group = GroupDesc::decode(&raw)?;
    change(&mut group, image)?;
    group.encode32(&mut raw);
    let sum = csum::group_desc(fs.fs_seed(), number as u32, &raw);
    put(&mut raw, BG_CHECKSUM, &sum.to_le_bytes())?;
    write(image, offset, &raw)
}

/// Clears a bit of a bitmap, which must be set; returns the bitmap.
fn clear_bit(image: &File, offset: u64, bit: u64) -> Result<Vec<u8>, ReplaceError> {
    let mut bitmap = vec![0; BLOCK as usize];
    image
        .read_exact_at(&mut bitmap, offset)
        .map_err(ReplaceError::Image)?;
    let mask = 1 << (bit % 8);
    match bitmap.get_mut((bit / 8) as usize) {
        Some(byte) if *byte & mask != 0 => *byte &= !mask,
        _ => return Err(damaged()),
    }
    write(image, offset, &bitmap)?;
    Ok(bitmap)
}

fn damaged() -> ReplaceError {
    ReplaceError::Image(io::ErrorKind::InvalidData.into())
}
