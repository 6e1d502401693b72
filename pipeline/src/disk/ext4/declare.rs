//! Declares a tree to the writer: names, inodes, extended attributes and the
//! extents of file contents.

use std::borrow::Cow;

use mkext4::dirhash::HashSeed;
use mkext4::{FsBuilder, InodeHandle, Meta, SparseSeg, SpecialKind};

use super::BLOCK;
use super::content::block_runs;
use super::inode::meta;
use super::lost_and_found;
use super::raw_names::{Hashes, StandIns};
use crate::disk::error::DiskError;
use crate::tar::entry::{Content, Device, display_name};
use crate::tree::xattr;
use crate::tree::{Inode, InodeId, InodeKind, ROOT, Tree};

/// The maximum size of a file: 2^32 blocks, less one.
const MAX_FILE: u64 = (u32::MAX as u64) * BLOCK;

/// A file system whose names are all declared.
pub(super) struct Declared<'a> {
    pub(super) builder: FsBuilder,
    /// Each file with data: its handle, its layer and its content.
    pub(super) contents: Vec<(InodeHandle, usize, &'a Content)>,
    pub(super) stand_ins: StandIns,
    /// The declared name of the tree's own `/lost+found`.
    pub(super) lost_and_found: Option<String>,
}

/// A directory whose names are not declared yet.
struct Pending {
    inode: InodeId,
    handle: InodeHandle,
    /// Its path, for messages.
    path: Vec<u8>,
    /// Its path in the declared names.
    declared: String,
}

/// Declares every name of the tree to the writer: directory by directory, in
/// byte order. This determines the order of inodes and content.
pub(super) fn declare<'a>(
    tree: &'a Tree,
    mut builder: FsBuilder,
    seed: &HashSeed,
    mut stand_ins: StandIns,
) -> Result<Declared<'a>, DiskError> {
    let root = tree.inode(ROOT);
    let fail = |path: &[u8]| {
        let path = display_name(path);
        move |source| DiskError::Inode { path, source }
    };
    (builder.set_meta(mkext4::ROOT, meta(&root.attributes))).map_err(fail(b"/"))?;
    set_xattrs(&mut builder, mkext4::ROOT, root, b"/")?;
    let mut handles: Vec<Option<InodeHandle>> = vec![None; tree.capacity()];
    let mut contents = Vec::new();
    let mut lost_and_found = None;
    let mut pending = vec![Pending {
        inode: ROOT,
        handle: mkext4::ROOT,
        path: Vec::new(),
        declared: String::new(),
    }];
    while let Some(directory) = pending.pop() {
        let begin = pending.len();
        let parent = directory.handle;
        let mut hashes: Option<Hashes> = None;
        for (name, edge) in tree.names(directory.inode) {
            let path = [&directory.path, &b"/"[..], name].concat();
            let inode = tree.inode(edge.inode);
            let taken = |name: &str| tree.lookup(directory.inode, name.as_bytes()).is_some();
            let name = match std::str::from_utf8(name) {
                Ok(_) if directory.inode == ROOT && name == lost_and_found::NAME => {
                    let placeholder = lost_and_found::placeholder(&taken);
                    lost_and_found = Some(placeholder.clone());
                    Cow::Owned(placeholder)
                }
                Ok(name) => Cow::Borrowed(name),
                Err(_) => {
                    let hashes = hashes.get_or_insert_with(|| {
                        Hashes::of(tree.names(directory.inode).map(|(name, _)| name), seed)
                    });
                    let found = stand_ins.for_name(&directory.declared, name, hashes, &taken);
                    Cow::Owned(found.ok_or_else(|| DiskError::Name {
                        directory: display_name(&directory.path),
                    })?)
                }
            };
            if let Some(other) = handles[edge.inode.index()] {
                (builder.hardlink(parent, &name, other)).map_err(fail(&path))?;
                continue;
            }
            let declared = format!("{}/{name}", directory.declared);
            let meta = meta(&inode.attributes);
            let made = match &inode.kind {
                InodeKind::Directory(_) => builder.mkdir(parent, &name, meta),
                InodeKind::File { content, .. } => file(&mut builder, parent, &name, meta, content),
                InodeKind::Symlink { target } => match std::str::from_utf8(target) {
                    Ok(target) => builder.symlink(parent, &name, target, meta),
                    Err(_) => {
                        let target = stand_ins.for_target(&declared, target);
                        builder.symlink(parent, &name, &target, meta)
                    }
                },
                InodeKind::CharDevice(Device { major, minor }) => {
                    let (major, minor) = (*major, *minor);
                    builder.mknod(parent, &name, meta, SpecialKind::Char { major, minor })
                }
                InodeKind::BlockDevice(Device { major, minor }) => {
                    let (major, minor) = (*major, *minor);
                    builder.mknod(parent, &name, meta, SpecialKind::Block { major, minor })
                }
                InodeKind::Fifo => builder.mknod(parent, &name, meta, SpecialKind::Fifo),
            };
            let made = made.map_err(fail(&path))?;
            set_xattrs(&mut builder, made, inode, &path)?;
            match &inode.kind {
                InodeKind::Directory(_) => pending.push(Pending {
                    inode: edge.inode,
                    handle: made,
                    path,
                    declared,
                }),
                InodeKind::File { layer, content } => {
                    if content.size > MAX_FILE {
                        return Err(DiskError::FileTooLarge {
                            path: display_name(&path),
                        });
                    }
                    if !content.segments.is_empty() {
                        contents.push((made, *layer, content));
                    }
                    handles[edge.inode.index()] = Some(made);
                }
                _ => handles[edge.inode.index()] = Some(made),
            }
        }
        // The first directory is taken next.
        pending[begin..].reverse();
    }
    Ok(Declared {
        builder,
        contents,
        stand_ins,
        lost_and_found,
    })
}

/// Declares a file. A sparse file is declared in whole blocks: a block with any
/// data is a data block.
fn file(
    builder: &mut FsBuilder,
    parent: InodeHandle,
    name: &str,
    meta: Meta,
    content: &Content,
) -> mkext4::Result<InodeHandle> {
    let runs = block_runs(content);
    if runs == [(0, content.size)] || content.size == 0 {
        return builder.file(parent, name, meta, content.size);
    }
    let mut segments = Vec::new();
    let mut at = 0;
    for (begin, end) in runs {
        if begin > at {
            segments.push(SparseSeg::Hole(begin - at));
        }
        segments.push(SparseSeg::Data(end - begin));
        at = end;
    }
    if content.size > at {
        segments.push(SparseSeg::Hole(content.size - at));
    }
    builder.file_sparse(parent, name, meta, &segments)
}

fn set_xattrs(
    builder: &mut FsBuilder,
    handle: InodeHandle,
    inode: &Inode,
    path: &[u8],
) -> Result<(), DiskError> {
    let bad = || DiskError::Attributes {
        path: display_name(path),
    };
    if !xattr::fit_ext4(&inode.attributes.xattrs) {
        return Err(bad());
    }
    for xattr in &inode.attributes.xattrs {
        let name = std::str::from_utf8(&xattr.name).map_err(|_| bad())?;
        let value = xattr::stored_by_ext4(xattr).ok_or_else(bad)?;
        builder.set_xattr(handle, name, &value).map_err(|_| bad())?;
    }
    Ok(())
}
