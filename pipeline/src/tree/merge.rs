//! Merges layers into a tree, bottom layer first, one member after another.
//!
//! The rules are those of the OCI layer specification ("Applying Changesets",
//! "Whiteouts") and, where it does not specify, of umoci, podman and containerd:
//! - A whiteout (`.wh.NAME`, of any type) and an opaque marker (`.wh..wh..opq`)
//!   hide entries of *lower* layers; entries of the same layer stay, in either
//!   order. A directory named `.wh.NAME` that only exists as the parent of a
//!   member is an ordinary directory.
//! - A directory over a directory keeps its entries and takes the new
//!   attributes; in all other cases the new member replaces the old one. If the
//!   replaced name is a hard link, the other names are unchanged.
//! - A parent directory without a member is created (`root:root`, 0755, 1970); a
//!   file in the place of a parent directory is replaced. So is a symbolic link to a file, but not
//!   the file, and a link of a lower layer that leads nowhere because it is in a loop.
//! - The target of a hard link is a name from the root, in this or a lower layer.
//! - The metadata of AUFS (names below `.wh..wh.*`) is dropped. A file in
//!   `.wh..wh.plnk` is the content of the hard links to it.
//!
//! In a tar that is not a layer ([`Merger::without_whiteouts`]), `.wh.x` is an
//! ordinary file.
//!
//! # Names that point out of the root
//! Names are resolved in the tree alone, so no name can reach the host ([`path`]).
//! - A leading `/` means the image's root, as for umoci, containerd and Docker:
//!   ko, kaniko, Bazel and buildpacks write such names.
//! - Symbolic links in the path of a member, a whiteout or a hard link's target
//!   are followed within the root (`/lib`, `/var/run`).
//! - A name or a hard link's target that leaves the root with `..` is rejected:
//!   its author cannot have intended any result.

mod budget;
mod error;
mod path;

use std::collections::{HashMap, HashSet};

use self::budget::{Budget, MAX_INODES};
pub use self::error::{MergeError, MergeProblem};
use self::path::{MAX_PATH, Step, find, find_edge, is_target, parts, resolve};
use crate::tar::entry::{Attributes, Device, Entry, EntryKind, display_name};
use crate::tree::xattr;
use crate::tree::{Edge, Inode, InodeId, InodeKind, ROOT, Tree};

/// The version of the rules. Must rise whenever the same layers could give another tree.
pub(crate) const MERGE_VERSION: u32 = 2;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where AUFS keeps the content of files with several names.
const LINKED: &[u8] = b".wh..wh.plnk";

/// Builds a tree.
#[derive(Debug, Default)]
pub struct Merger {
    tree: Tree,
    budget: Budget,
    /// Names that begin with `.wh.` are ordinary.
    plain: bool,
    /// The current layer's number, recorded in the edges that it creates or passes.
    layer: usize,
    name: String,
    /// Directories without a name of a lower layer below them.
    cleared: HashSet<InodeId>,
    /// The files in `.wh..wh.plnk`.
    linked: HashMap<Vec<u8>, InodeId>,
    /// The number of components resolved and of names visited by whiteouts: the time taken.
    work: u64,
}

impl Merger {
    /// Starts with an empty root directory.
    pub fn new() -> Merger {
        Merger::default()
    }

    /// The same for a tar that is not a layer: names with `.wh.` are ordinary.
    pub fn without_whiteouts() -> Merger {
        Merger {
            plain: true,
            ..Merger::default()
        }
    }

    /// Begins layer number `layer`, counted from 0 at the bottom; `name` is for messages.
    pub fn begin_layer(&mut self, layer: usize, name: &str) {
        self.layer = layer;
        self.name = name.to_owned();
        self.cleared.clear();
    }

    /// Adds a member of the current layer.
    ///
    /// # Errors
    /// [`MergeError`]; the tree cannot be used after one.
    pub fn add(&mut self, entry: Entry) -> Result<(), MergeError> {
        let path = entry.path.clone();
        self.try_add(entry).map_err(|problem| MergeError {
            layer: self.name.clone(),
            entry: display_name(&path),
            problem,
        })
    }

    /// The time taken so far: the number of steps that an image can multiply.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// The tree.
    pub fn finish(self) -> Tree {
        self.tree
    }

    fn try_add(&mut self, mut entry: Entry) -> Result<(), MergeProblem> {
        let path = std::mem::take(&mut entry.path);
        let parts = parts(&path)?.ok_or(MergeProblem::Escape)?;
        let Some((name, parents)) = parts.split_last() else {
            return self.set_root(entry);
        };
        if self.plain {
            return self.put(parents, name, entry);
        }
        if *parents == [LINKED] {
            return self.put_linked(name, entry);
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT_META)) {
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT) {
            Some(_) if *name == OPAQUE => {
                if let Some(directory) = find(&self.tree, parents, self.layer, &mut self.work)? {
                    self.clear(directory);
                }
                Ok(())
            }
            Some(hidden) => self.hide(parents, hidden),
            None => self.put(parents, name, entry),
        }
    }

    fn set_root(&mut self, entry: Entry) -> Result<(), MergeProblem> {
        match entry.kind {
            EntryKind::Directory => {
                let root = self.inode(entry.kind, entry.attributes)?;
                self.tree.inode_mut(ROOT).attributes = root.attributes;
                Ok(())
            }
            _ => Err(MergeProblem::Root),
        }
    }

    fn hide(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), MergeProblem> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(MergeProblem::BadWhiteout);
        }
        let Some(directory) = find(&self.tree, parents, self.layer, &mut self.work)? else {
            return Ok(());
        };
        match self.tree.lookup(directory, name) {
            Some(edge) if edge.layer < self.layer => self.tree.unlink(directory, name),
            Some(edge) => self.clear(edge.inode),
            None => {}
        }
        Ok(())
    }

    /// Removes every name of a lower layer below `directory`.
    fn clear(&mut self, directory: InodeId) {
        self.work += (self.tree).remove_below(directory, self.layer, &mut self.cleared);
    }

    fn put(&mut self, parents: &[&[u8]], name: &[u8], entry: Entry) -> Result<(), MergeProblem> {
        let layer = self.layer;
        let new = match entry.kind {
            // Before the parents of the new name are created, which may replace entries.
            EntryKind::Hardlink { target } => New::Name(self.link_target(&target)?),
            kind => New::Inode(self.inode(kind, entry.attributes)?),
        };
        let directory = self.directory(parents, name)?;
        let existing = self.tree.lookup(directory, name).map(|edge| edge.inode);
        let inode = match (new, existing) {
            (New::Name(inode), _) => inode,
            (New::Inode(inode), Some(existing))
                if self.tree.is_directory(existing)
                    && matches!(inode.kind, InodeKind::Directory(_)) =>
            {
                self.tree.inode_mut(existing).attributes = inode.attributes;
                existing
            }
            (New::Inode(inode), _) => self.make(inode)?,
        };
        self.budget.name(name)?;
        self.tree.link(directory, name, Edge { inode, layer });
        Ok(())
    }

    /// A file of AUFS's directory for the content of hard links. It gets a name only by such links.
    fn put_linked(&mut self, name: &[u8], entry: Entry) -> Result<(), MergeProblem> {
        let inode = match entry.kind {
            EntryKind::Directory => return Ok(()),
            EntryKind::Hardlink { target } => self.link_target(&target)?,
            kind => {
                let inode = self.inode(kind, entry.attributes)?;
                self.make(inode)?
            }
        };
        self.budget.name(name)?;
        self.linked.insert(name.to_vec(), inode);
        Ok(())
    }

    /// The inode of a member that is not a hard link.
    fn inode(&mut self, kind: EntryKind, attributes: Attributes) -> Result<Inode, MergeProblem> {
        let mut attributes = xattr::kept(&kind, attributes)?;
        // What the file system cannot store is refused before it takes memory.
        if !xattr::fit_ext4(&attributes.xattrs) {
            return Err(MergeProblem::Attributes);
        }
        let kind = match kind {
            EntryKind::Symlink { target } | EntryKind::Hardlink { target } => {
                if !is_target(&target) {
                    return Err(MergeProblem::BadTarget);
                }
                // The only mode that Linux has for symbolic links.
                attributes.mode = 0o777;
                InodeKind::Symlink { target }
            }
            EntryKind::File(content) => {
                let layer = self.layer;
                InodeKind::File { layer, content }
            }
            EntryKind::Directory => InodeKind::Directory(Default::default()),
            EntryKind::CharDevice(device) => InodeKind::CharDevice(reduced(device)),
            EntryKind::BlockDevice(device) => InodeKind::BlockDevice(reduced(device)),
            EntryKind::Fifo => InodeKind::Fifo,
        };
        let inode = Inode { kind, attributes };
        self.budget.inode(&inode)?;
        Ok(inode)
    }

    /// The inode of a hard link's target; a symbolic link as its last component is not followed.
    fn link_target(&mut self, target: &[u8]) -> Result<InodeId, MergeProblem> {
        let text = || display_name(target);
        if !is_target(target) {
            return Err(MergeProblem::BadTarget);
        }
        let parts = parts(target)?.ok_or_else(|| MergeProblem::LinkEscape(text()))?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(MergeProblem::DirectoryTarget(text()));
        };
        let inode = match *parents == [LINKED] && !self.plain {
            true => self.linked.get(*name).copied(),
            false => find_edge(&self.tree, parents, name, self.layer, &mut self.work)?
                .map(|edge| edge.inode),
        };
        let inode = inode.ok_or_else(|| MergeProblem::MissingTarget(text()))?;
        match self.tree.is_directory(inode) {
            true => Err(MergeProblem::DirectoryTarget(text())),
            false => Ok(inode),
        }
    }

    /// The directory at the path `parts`, for a new entry `name`. It is created if necessary, and
    /// every directory in its resolved path belongs to this layer from then on.
    fn directory(&mut self, parts: &[&[u8]], name: &[u8]) -> Result<InodeId, MergeProblem> {
        let path = resolve(&self.tree, parts, self.layer, &mut self.work)?;
        let length = |step: &Step<'_>| step.name.len() + 1;
        if path.iter().map(length).sum::<usize>() + name.len() > MAX_PATH {
            return Err(MergeProblem::BadName);
        }
        // Owned, because a component may come from a link in the tree, which changes.
        let path: Vec<(Vec<u8>, Option<InodeId>)> = (path.iter())
            .map(|step| (step.name.to_vec(), step.directory()))
            .collect();
        let (mut here, layer) = (ROOT, self.layer);
        for (name, directory) in path {
            here = match directory {
                Some(inode) => {
                    self.tree.touch(here, &name, layer);
                    inode
                }
                None => {
                    self.budget.name(&name)?;
                    let directory = Inode::implicit_directory();
                    self.budget.inode(&directory)?;
                    let inode = self.make(directory)?;
                    self.tree.link(here, &name, Edge { inode, layer });
                    inode
                }
            };
        }
        Ok(here)
    }

    fn make(&mut self, inode: Inode) -> Result<InodeId, MergeProblem> {
        if self.tree.capacity() >= MAX_INODES {
            return Err(MergeProblem::TooMany);
        }
        self.tree.add(inode).ok_or(MergeProblem::TooMany)
    }
}

/// The number as `mknod(2)` takes it: Linux has 12 bits for the major and 20 for the minor number.
fn reduced(device: Device) -> Device {
    Device {
        major: device.major & 0xfff,
        minor: device.minor & 0xf_ffff,
    }
}

/// What a new name refers to.
enum New {
    /// An inode that exists.
    Name(InodeId),
    Inode(Inode),
}

#[cfg(test)]
mod tests;
