//! The built-in writer: writes a tree as an ext4 image, directly from the
//! layers' tars, with `mkext4`: no root privileges, no staging directory, the
//! same bytes every time.
//!
//! - The image's UUID and the directories' hash seed are derived from a digest
//!   that the caller passes; the file system's own times are 1970.
//! - The image has the files of the tree and no others, so `/lost+found` only if
//!   the tree has it ([`lost_and_found`]).
//! - A layer has no change times: all three times are `mtime`, clamped to the
//!   range of an inode (1901 to 2446).
//! - Names may be arbitrary bytes ([`raw_names`]).
//! - No blocks are reserved for root, so the guest has the whole requested size.

mod content;
mod declare;
mod inode;
mod lost_and_found;
mod raw_names;
mod sink;
mod size;
mod superblock;

use std::fs::File;

use microagent_cas::Digest;
use mkext4::{FsBuilder, InodeCount, InodeHandle, Layout, Options};

use self::content::ContentReader;
use self::declare::declare;
pub(crate) use self::inode::timestamp;
use self::raw_names::{ReplaceError, StandIns};
use self::sink::Sink;
use self::size::{MAX_IMAGE, MIN_IMAGE, Need, STEP, grown, smallest};
pub(crate) use self::superblock::{LABEL_BYTES, set_last_mounted};
use crate::disk::error::{DiskError, WriteError};
use crate::disk::{MIB, Size};
use crate::tar::entry::Content;
use crate::tree::{ROOT, Tree};

/// The versions of the writer, of [`raw_names`] and of [`lost_and_found`], for the keys of nodes.
pub(crate) const WRITER: &str = "mkext4 0.0.3, raw names 2, lost+found 1";

const BLOCK: u64 = 4096;

/// The identity of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    /// The seed of its UUID.
    pub(crate) seed: &'a Digest,
    /// Its volume label, at most [`LABEL_BYTES`] long; none if empty.
    pub(crate) label: &'a str,
}

/// A file system that is laid out but not yet written.
pub(crate) struct Planned<'a> {
    layout: Layout,
    contents: Vec<(InodeHandle, usize, &'a Content)>,
    stand_ins: StandIns,
    lost_and_found: Option<String>,
    /// The number of directories in the root directory.
    directories: u32,
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
    plan_with(tree, identity, size, StandIns::default)
}

fn plan_with<'a>(
    tree: &'a Tree,
    identity: Identity<'_>,
    size: Size,
    stand_ins: fn() -> StandIns,
) -> Result<Planned<'a>, DiskError> {
    let need = Need::of(tree);
    let attempt = |size| attempt(tree, identity, &need, size, stand_ins());
    match size {
        Size::Headroom(free) => {
            let mut size = need.bytes.saturating_add(free).next_multiple_of(STEP);
            loop {
                if let Some(planned) = attempt(size)? {
                    return Ok(planned);
                }
                size = grown(size);
            }
        }
        Size::Exact(size) => match attempt(size)? {
            Some(planned) => Ok(planned),
            None => Err(DiskError::TooSmall {
                requested_mib: size / MIB,
                minimum_mib: smallest(size, |size| Ok(attempt(size)?.is_some()))? / MIB,
            }),
        },
    }
}

/// The size of the image of a tree and its number of inodes, for another writer. Names that this
/// one cannot store count as well.
pub(crate) fn measure(tree: &Tree, seed: &Digest, size: Size) -> Result<(u64, u32), DiskError> {
    let identity = Identity { seed, label: "" };
    let size = plan_with(tree, identity, size, StandIns::for_measuring)?.size();
    let inodes = Need::of(tree).inodes_for(size);
    Ok((size, inodes.unwrap_or(u32::MAX)))
}

impl Planned<'_> {
    /// The image's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.layout.image_len()
    }

    /// Writes the image into an empty file. `tars` are the layers' tars.
    /// `progress` receives the size of each content as it is written.
    pub(crate) fn write(
        &self,
        tars: &[File],
        image: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), WriteError> {
        image.set_len(self.size()).map_err(WriteError::Image)?;
        let mut sink = Sink::new(image);
        let result = self.write_to(tars, &mut sink, progress);
        // The writer passes on only the kind of an error of the image.
        sink.finish().map_err(WriteError::Image)?;
        result?;
        let replaced = (self.stand_ins.replace(image)).and_then(|()| {
            lost_and_found::remove(image, self.lost_and_found.as_deref(), self.directories)
        });
        replaced.map_err(|error| match error {
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

/// Lays the tree out in `size` bytes; `None` if it does not fit.
fn attempt<'a>(
    tree: &'a Tree,
    identity: Identity<'_>,
    need: &Need,
    size: u64,
    stand_ins: StandIns,
) -> Result<Option<Planned<'a>>, DiskError> {
    if size > MAX_IMAGE {
        return Err(DiskError::TooLarge {
            maximum_mib: MAX_IMAGE / MIB,
        });
    }
    // Below the minimum, mkext4 fails because the journal does not fit.
    let Some(inodes) = need.inodes_for(size).filter(|_| size >= MIN_IMAGE) else {
        return Ok(None);
    };
    let layout_failed = |source| DiskError::Layout { source };
    let mut options = Options::new(size, uuid(identity.seed), 0);
    options.label = Some(identity.label.to_owned()).filter(|label| !label.is_empty());
    options.inodes = InodeCount::Exact(inodes);
    options.reserved_percent = 0;
    let hash_seed = options.hash_seed;
    let builder = FsBuilder::new(options).map_err(layout_failed)?;
    let declared = declare(tree, builder, &hash_seed, stand_ins)?;
    match declared.builder.seal() {
        Ok(layout) => Ok(Some(Planned {
            layout,
            contents: declared.contents,
            stand_ins: declared.stand_ins,
            lost_and_found: declared.lost_and_found,
            directories: (tree.names(ROOT))
                .filter(|(_, edge)| tree.is_directory(edge.inode))
                .count() as u32,
        })),
        // Names and attributes were checked when they were declared, so
        // `Invalid` means a lack of space here.
        Err(mkext4::Error::Invalid(_)) => Ok(None),
        Err(source) => Err(layout_failed(source)),
    }
}

/// A version 8 UUID (RFC 9562: implementation-defined) from the seed.
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
