//! Reads the tree in a directory, unpacked by `umoci` or mounted by the kernel.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, major, minor, seek};

use crate::tree::{BLOCK, Content, Inode, InodeKind, Tree};

/// Lists everything below `root`, and `root` itself as `/`.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::default();
    let mut pending = vec![(root.to_owned(), b"/".to_vec())];
    while let Some((path, name)) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let file_type = metadata.file_type();
        let device = (major(metadata.rdev()), minor(metadata.rdev()));
        let kind = if file_type.is_dir() {
            let parent = if name == b"/" { b"" } else { &name[..] };
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let name = [parent, b"/", entry.file_name().as_bytes()].concat();
                pending.push((entry.path(), name));
            }
            InodeKind::Directory
        } else if file_type.is_symlink() {
            InodeKind::Symlink(fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
        } else if file_type.is_char_device() {
            InodeKind::Char(device.0, device.1)
        } else if file_type.is_block_device() {
            InodeKind::Block(device.0, device.1)
        } else if file_type.is_fifo() {
            InodeKind::Fifo
        } else {
            InodeKind::File(content(&File::open(&path)?, metadata.size())?)
        };
        tree.names.insert(name, metadata.ino());
        let inode = Inode {
            kind,
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
            xattrs: xattrs(&path)?,
        };
        tree.inodes.insert(metadata.ino(), inode);
    }
    Ok(tree)
}

/// Reads only the data; a hole may be terabytes long.
fn content(file: &File, size: u64) -> io::Result<Content> {
    let mut content = Content {
        size,
        ..Content::default()
    };
    let mut at = 0;
    while at < size {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(file, SeekFrom::Hole(at))?;
        while at < hole {
            let mut block = vec![0; BLOCK.min((hole - at) as usize)];
            file.read_exact_at(&mut block, at)?;
            content.write(at, &block);
            at += block.len() as u64;
        }
    }
    Ok(content.without_zeros())
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names)?;
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if !name.is_empty() {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(path, name, &mut value)?;
            value.truncate(length);
            found.insert(name.to_vec(), value);
        }
    }
    Ok(found)
}
