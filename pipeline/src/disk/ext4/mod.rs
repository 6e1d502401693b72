//! Writes a tree as an ext4 image, straight from the layers' tars, with
//! `mkext4`: no root, no staging directory, the same bytes every time.
//!
//! - The image's UUID and the directories' hash seed come from a digest that
//!   the caller gives; times of the file system itself are 1970.
//! - `/lost+found` is the file system's own; an empty one of the image is
//!   dropped, another one is an error.
//! - A change time of its own is not in a layer: all three times are `mtime`,
//!   cut to what an inode holds (1901 to 2446).
//! - Names may be any bytes ([`raw_names`]).
//! - No blocks are reserved for root: the guest has the size that was asked for.

mod content;
mod raw_names;
mod sink;
mod superblock;

use std::borrow::Cow;
use std::fs::File;

use microagent_cas::Digest;
use mkext4::dirhash::HashSeed;
use mkext4::{FsBuilder, InodeCount, InodeHandle, Layout, Meta, Options, SparseSeg, SpecialKind};

use self::content::{ContentReader, block_runs};
use self::raw_names::{Hashes, ReplaceError, StandIns};
use self::sink::Sink;
pub(crate) use self::superblock::{LABEL_BYTES, set_last_mounted};
use crate::disk::error::{DiskError, WriteError};
use crate::disk::{MIB, Size};
use crate::tar::entry::{Attributes, Content, Device, display_name};
use crate::tree::xattr;
use crate::tree::{Inode, InodeId, InodeKind, ROOT, Tree};

/// The writer and its version, and that of [`raw_names`], for the key of
/// what they wrote.
pub(crate) const WRITER: &str = "mkext4 0.0.3, raw names 2";

const BLOCK: u64 = 4096;
/// Sizes are multiples of this.
const STEP: u64 = MIB;
/// One spare inode for so many free bytes (the ratio of mke2fs).
const BYTES_PER_INODE: u64 = 16384;
/// What a file system holds beside its content: superblocks, journal.
const OVERHEAD: u64 = 8 * MIB;
/// The smallest image: four times the smallest journal.
const SMALLEST: u64 = 16 * MIB;
const GROUP_BYTES: u64 = 128 * MIB;
/// The most inodes for each 128 MiB. A group may have 32768, but then the
/// tables of sixteen groups, which lie together, do not fit one group.
const INODES_PER_GROUP: u64 = 24576;
/// The largest file: 2^32 blocks, less one.
const MAX_FILE: u64 = (u32::MAX as u64) * BLOCK;
/// What the attributes of one inode may take: one block, less its header.
const MAX_XATTRS: usize = 4096 - 36;
/// The largest image: blocks are counted in 32 bits.
const MAX_IMAGE: u64 = (u32::MAX as u64 - 1) * BLOCK / STEP * STEP;

/// What a file system is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    /// What its UUID is made of.
    pub(crate) seed: &'a Digest,
    /// Its volume label, at most [`LABEL_BYTES`]; none when empty.
    pub(crate) label: &'a str,
}

/// A file system that is laid out and only needs to be written.
pub(crate) struct Planned<'a> {
    layout: Layout,
    contents: Vec<(InodeHandle, usize, &'a Content)>,
    stand_ins: StandIns,
}

/// Lays the tree out, without a label. Nothing is written.
pub(crate) fn plan<'a>(
    tree: &'a Tree,
    seed: &Digest,
    size: Size,
) -> Result<Planned<'a>, DiskError> {
    plan_as(tree, Identity { seed, label: "" }, size)
}

/// Lays the tree out. Nothing is written.
pub(crate) fn plan_as<'a>(
    tree: &'a Tree,
    identity: Identity<'_>,
    size: Size,
) -> Result<Planned<'a>, DiskError> {
    let need = Need::of(tree);
    match size {
        Size::Headroom(free) => {
            let mut size = need.bytes.saturating_add(free).next_multiple_of(STEP);
            loop {
                if let Some(planned) = attempt(tree, identity, &need, size)? {
                    return Ok(planned);
                }
                size += (size / 8).next_multiple_of(STEP);
            }
        }
        Size::Exact(size) => match attempt(tree, identity, &need, size)? {
            Some(planned) => Ok(planned),
            None => Err(DiskError::TooSmall {
                asked_mib: size / MIB,
                least_mib: least(tree, identity, &need, size)? / MIB,
            }),
        },
    }
}

/// The least size above `too_small` at which the tree fits.
fn least(
    tree: &Tree,
    identity: Identity<'_>,
    need: &Need,
    too_small: u64,
) -> Result<u64, DiskError> {
    let (mut below, mut above) = (too_small, too_small.max(SMALLEST).next_multiple_of(STEP));
    while attempt(tree, identity, need, above)?.is_none() {
        below = above;
        above += (above / 8).next_multiple_of(STEP);
    }
    while above - below > STEP {
        let middle = (below + (above - below) / 2).next_multiple_of(STEP);
        match attempt(tree, identity, need, middle)? {
            Some(_) => above = middle,
            None => below = middle,
        }
    }
    Ok(above)
}

/// The size and the number of inodes that a tree gets.
pub(crate) fn measure(tree: &Tree, seed: &Digest, size: Size) -> Result<(u64, u32), DiskError> {
    let size = plan(tree, seed, size)?.size();
    let inodes = Need::of(tree).inodes_for(size);
    Ok((size, inodes.unwrap_or(u32::MAX)))
}

impl Planned<'_> {
    /// The image's length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.layout.image_len()
    }

    /// Writes the image into an empty file. `tars` are the layers' tars.
    /// `progress` is told each number of content bytes as they are written.
    pub(crate) fn write(
        &self,
        tars: &[File],
        image: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), WriteError> {
        image.set_len(self.size()).map_err(WriteError::Image)?;
        let mut sink = Sink::new(image);
        let result = self.write_to(tars, &mut sink, progress);
        // The writer only hands on the kind of the image's own error.
        sink.finish().map_err(WriteError::Image)?;
        result?;
        self.stand_ins.replace(image).map_err(|error| match error {
            ReplaceError::Image(error) => WriteError::Image(error),
            ReplaceError::Reader(source) => WriteError::Disk(DiskError::Layout { source }),
            ReplaceError::Sorted(directory) => WriteError::Disk(DiskError::Name { directory }),
        })
    }

    fn write_to(
        &self,
        tars: &[File],
        sink: &mut Sink<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), WriteError> {
        let failed = |source| WriteError::Disk(DiskError::Layout { source });
        let mut writer = self.layout.writer(sink).map_err(failed)?;
        for (file, layer, content) in &self.contents {
            let Some(tar) = tars.get(*layer) else {
                return Err(WriteError::Layer(*layer));
            };
            let mut reader = ContentReader::new(tar, content);
            writer
                .fill(*file, &mut reader)
                .map_err(|_| WriteError::Layer(*layer))?;
            progress(content.segments.iter().map(|segment| segment.length).sum());
        }
        writer.finish().map_err(failed)?;
        Ok(())
    }
}

/// What a tree takes at least.
struct Need {
    bytes: u64,
    inodes: u64,
}

impl Need {
    fn of(tree: &Tree) -> Need {
        let mut blocks = 0u64;
        let mut inodes = 0u64;
        for inode in tree.named() {
            inodes += 1;
            blocks += match &tree.inode(inode).kind {
                InodeKind::File { content, .. } => {
                    let data =
                        |segment: &crate::tar::entry::Segment| segment.length.div_ceil(BLOCK);
                    content.segments.iter().map(data).sum()
                }
                InodeKind::Directory(_) => 1,
                _ => 0,
            };
        }
        let bytes = (blocks.saturating_mul(BLOCK))
            .saturating_add(inodes * 256)
            .saturating_add(OVERHEAD);
        let groups = inodes.div_ceil(INODES_PER_GROUP);
        Need {
            bytes: bytes.max(groups.saturating_sub(1) * GROUP_BYTES),
            inodes: inodes + 16,
        }
    }

    /// How many inodes an image of `size` bytes gets; `None` if too few fit.
    fn inodes_for(&self, size: u64) -> Option<u32> {
        let spare = size.saturating_sub(self.bytes) / BYTES_PER_INODE;
        let room = size.div_ceil(GROUP_BYTES) * INODES_PER_GROUP;
        let inodes = (self.inodes + 64 + spare).min(room);
        u32::try_from(inodes).ok().filter(|_| self.inodes <= room)
    }
}

/// Lays the tree out in `size` bytes; `None` if it does not fit.
fn attempt<'a>(
    tree: &'a Tree,
    identity: Identity<'_>,
    need: &Need,
    size: u64,
) -> Result<Option<Planned<'a>>, DiskError> {
    if size > MAX_IMAGE {
        return Err(DiskError::TooLarge {
            most_mib: MAX_IMAGE / MIB,
        });
    }
    // mkext4 wants room for a journal, and says so with an error of its own.
    let Some(inodes) = need.inodes_for(size).filter(|_| size >= SMALLEST) else {
        return Ok(None);
    };
    let layout_failed = |source| DiskError::Layout { source };
    let mut options = Options::new(size, uuid(identity.seed), 0);
    options.label = Some(identity.label.to_owned()).filter(|label| !label.is_empty());
    options.inodes = InodeCount::Exact(inodes);
    options.reserved_percent = 0;
    let hash_seed = options.hash_seed;
    let builder = FsBuilder::new(options).map_err(layout_failed)?;
    let declared = declare(tree, builder, &hash_seed)?;
    match declared.builder.seal() {
        Ok(layout) => Ok(Some(Planned {
            layout,
            contents: declared.contents,
            stand_ins: declared.stand_ins,
        })),
        // Names and attributes were checked as they were declared; what is
        // left for `Invalid` at this point is space.
        Err(mkext4::Error::Invalid(_)) => Ok(None),
        Err(source) => Err(layout_failed(source)),
    }
}

struct Declared<'a> {
    builder: FsBuilder,
    contents: Vec<(InodeHandle, usize, &'a Content)>,
    stand_ins: StandIns,
}

/// A directory whose names are to be declared.
struct Pending {
    inode: InodeId,
    handle: InodeHandle,
    /// Its path, for messages.
    path: Vec<u8>,
    /// Its path by the names it is declared under.
    declared: String,
}

/// Declares every name of the tree to the writer: directory by directory, in
/// byte order, which decides the order of inodes and content.
fn declare<'a>(
    tree: &'a Tree,
    mut builder: FsBuilder,
    seed: &HashSeed,
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
    let mut stand_ins = StandIns::default();
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
            if path == b"/lost+found" {
                if matches!(&inode.kind, InodeKind::Directory(names) if names.is_empty()) {
                    continue;
                }
                return Err(DiskError::LostFound);
            }
            let name = match std::str::from_utf8(name) {
                Ok(name) => Cow::Borrowed(name),
                Err(_) => {
                    let taken =
                        |name: &str| tree.lookup(directory.inode, name.as_bytes()).is_some();
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
        // The first directory is to be taken next.
        pending[begin..].reverse();
    }
    Ok(Declared {
        builder,
        contents,
        stand_ins,
    })
}

/// Declares a file. One with holes is declared by whole blocks: a block that
/// holds any data at all is data.
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
    let mut total = 0;
    for xattr in &inode.attributes.xattrs {
        let name = std::str::from_utf8(&xattr.name).map_err(|_| bad())?;
        let value = xattr::stored_by_ext4(xattr).ok_or_else(bad)?;
        total += 16 + name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        if total > MAX_XATTRS {
            return Err(bad());
        }
        builder.set_xattr(handle, name, &value).map_err(|_| bad())?;
    }
    Ok(())
}

fn meta(attributes: &Attributes) -> Meta {
    let Attributes { mode, uid, gid, .. } = *attributes;
    Meta::new(mode, uid, gid, stored_time(attributes))
}

/// A modification time as an inode can hold it: 34 bits of seconds from -2^31.
fn stored_time(attributes: &Attributes) -> (i64, u32) {
    const EARLIEST: i64 = -(1 << 31);
    const LATEST: i64 = (1 << 34) - (1 << 31) - 1;
    let seconds = attributes.mtime.seconds;
    match seconds.clamp(EARLIEST, LATEST) {
        same if same == seconds => (seconds, attributes.mtime.nanos),
        cut => (cut, 0),
    }
}

/// A modification time as the two fields of an inode (`ext4_encode_extra_time`).
pub(crate) fn timestamp(attributes: &Attributes) -> (u32, u32) {
    let (seconds, nanos) = stored_time(attributes);
    mkext4::spec::Inode::encode_timestamp(seconds, nanos)
}

/// A version 8 UUID (RFC 9562: ours to define) from the seed.
pub(crate) fn uuid(seed: &Digest) -> [u8; 16] {
    let hex = seed.hex();
    let mut uuid = [0; 16];
    for (byte, digits) in uuid.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests;
