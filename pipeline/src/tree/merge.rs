//! Merges layers into a tree, bottom layer first, one member after another.
//!
//! The rules are those of the OCI layer specification ("Applying Changesets",
//! "Whiteouts") and, where it does not specify, of umoci and containerd:
//! - A whiteout (`.wh.NAME`, of any type) and an opaque marker (`.wh..wh..opq`)
//!   hide entries of *lower* layers; entries of the same layer stay, in either
//!   order.
//! - A directory over a directory keeps its entries and takes the new
//!   attributes; in all other cases the new member replaces the old one. If the
//!   replaced name is a hard link, the other names are unchanged.
//! - A parent directory without a member is created (`root:root`, 0755, 1970); a
//!   file in the place of a parent directory is replaced.
//! - The target of a hard link is a name from the root, in this or a lower layer.
//! - Files of AUFS (`.wh..wh.*`) are dropped.
//!
//! In a tar that is not a layer ([`Merger::without_whiteouts`]), `.wh.x` is an
//! ordinary file.
//!
//! # Names that escape from the root
//! Names are resolved in the tree alone, so no name can reach the host. These
//! rules reject images whose result its author cannot have intended:
//! - `..` in a member's name or in a hard link's target is rejected.
//! - A leading `/` means the image's root, as for umoci, containerd and Docker:
//!   ko, kaniko, Bazel and buildpacks write such names.
//! - A symbolic link in the path of a member is followed within the root
//!   (`/lib`, `/var/run`), unless it leaves the root with `..`. A link of the same
//!   layer must not be absolute: no tool that walks a file tree writes such a
//!   layer, and it is the known way to escape to the host.

use std::collections::VecDeque;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::tar::entry::{Entry, EntryKind, display_name};
use crate::tree::xattr;
use crate::tree::{Edge, Inode, InodeId, InodeKind, ROOT, Tree};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The maximum length of a member's name and of a link's target: `PATH_MAX`
/// without the terminating NUL.
const MAX_PATH: usize = 4095;
/// The maximum length of a path component (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// The maximum number of symbolic links in the resolution of a path, as in Linux.
const MAX_LINKS: usize = 40;
/// The maximum number of inodes of all layers of an image.
const MAX_INODES: usize = 1 << 22;

/// Why a layer cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer}: cannot unpack {entry:?}: {problem}")]
pub struct MergeError {
    /// The layer's digest.
    pub layer: String,
    /// The member's name in the tar.
    pub entry: String,
    /// The problem.
    pub problem: MergeProblem,
}

/// The problem with a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message documents its variant
pub enum MergeProblem {
    #[error("its name leaves the root directory")]
    Escape,
    #[error("its link target {0:?} leaves the root directory")]
    LinkEscape(String),
    #[error(
        "it passes through the symbolic link {link:?}, which leaves the root directory for {target:?}"
    )]
    SymlinkEscape { link: String, target: String },
    #[error("it passes through more than {MAX_LINKS} symbolic links")]
    SymlinkLoop,
    #[error("its link target {0:?} is not in the image")]
    MissingTarget(String),
    #[error("its link target {0:?} is a directory")]
    DirectoryTarget(String),
    #[error("its link target is empty, longer than {MAX_PATH} bytes, or contains a NUL byte")]
    BadTarget,
    #[error(
        "its name contains a NUL byte, or is longer than {MAX_PATH} bytes or {MAX_NAME} bytes per component"
    )]
    BadName,
    #[error("it would replace the root directory")]
    Root,
    #[error("it is a whiteout without a file name, or below a whiteout")]
    BadWhiteout,
    #[error("the image has more than {MAX_INODES} files")]
    TooMany,
}

impl Diagnosis for MergeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }

    fn remediation(&self) -> Option<String> {
        Some(match self.problem {
            MergeProblem::TooMany => "use an image with fewer files".into(),
            _ => "the image is malformed or hostile: do not use it, or rebuild it".into(),
        })
    }
}

/// Builds a tree.
#[derive(Debug, Default)]
pub struct Merger {
    tree: Tree,
    /// Names that begin with `.wh.` are ordinary.
    plain: bool,
    /// The current layer's number, recorded in the edges that it creates or passes.
    layer: usize,
    name: String,
}

/// What to do about a missing directory in a path.
#[derive(Clone, Copy, PartialEq)]
enum Missing {
    Make,
    GiveUp,
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
        let is_meta = |part: &&[u8]| part.starts_with(WHITEOUT_META);
        if parents.iter().any(is_meta) || (is_meta(name) && *name != OPAQUE) {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(MergeProblem::BadWhiteout);
        }
        if *name == OPAQUE {
            if let Some(directory) = self.walk(parents, Missing::Make)? {
                self.tree.remove_below(directory, self.layer);
            }
            return Ok(());
        }
        match name.strip_prefix(WHITEOUT) {
            Some(hidden) => self.hide(parents, hidden),
            None => self.put(parents, name, entry),
        }
    }

    fn set_root(&mut self, entry: Entry) -> Result<(), MergeProblem> {
        match entry.kind {
            EntryKind::Directory => {
                self.tree.inode_mut(ROOT).attributes = xattr::kept(entry.attributes);
                Ok(())
            }
            _ => Err(MergeProblem::Root),
        }
    }

    fn hide(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), MergeProblem> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(MergeProblem::BadWhiteout);
        }
        let Some(directory) = self.walk(parents, Missing::GiveUp)? else {
            return Ok(());
        };
        match self.tree.lookup(directory, name) {
            Some(edge) if edge.layer < self.layer => self.tree.unlink(directory, name),
            Some(edge) => self.tree.remove_below(edge.inode, self.layer),
            None => {}
        }
        Ok(())
    }

    fn put(&mut self, parents: &[&[u8]], name: &[u8], entry: Entry) -> Result<(), MergeProblem> {
        let layer = self.layer;
        let attributes = xattr::kept(entry.attributes);
        let kind = match entry.kind {
            EntryKind::Hardlink { target } => {
                // Before the parents of the new name are created, which may replace entries.
                let inode = self.link_target(&target)?;
                if let Some(directory) = self.walk(parents, Missing::Make)? {
                    self.tree.link(directory, name, Edge { inode, layer });
                }
                return Ok(());
            }
            EntryKind::Symlink { target } if !is_target(&target) => {
                return Err(MergeProblem::BadTarget);
            }
            EntryKind::Symlink { target } => InodeKind::Symlink { target },
            EntryKind::Directory => InodeKind::Directory(Default::default()),
            EntryKind::File(content) => InodeKind::File { layer, content },
            EntryKind::CharDevice(device) => InodeKind::CharDevice(device),
            EntryKind::BlockDevice(device) => InodeKind::BlockDevice(device),
            EntryKind::Fifo => InodeKind::Fifo,
        };
        let Some(directory) = self.walk(parents, Missing::Make)? else {
            return Ok(());
        };
        let existing = self.tree.lookup(directory, name).map(|edge| edge.inode);
        let inode = match existing {
            Some(existing)
                if self.tree.is_directory(existing) && matches!(kind, InodeKind::Directory(_)) =>
            {
                self.tree.inode_mut(existing).attributes = attributes;
                existing
            }
            _ => self.make(Inode { kind, attributes })?,
        };
        self.tree.link(directory, name, Edge { inode, layer });
        Ok(())
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
        let directory = self.walk(parents, Missing::GiveUp)?;
        let edge = directory.and_then(|directory| self.tree.lookup(directory, name));
        let inode = edge.map(|edge| edge.inode);
        let inode = inode.ok_or_else(|| MergeProblem::MissingTarget(text()))?;
        match self.tree.is_directory(inode) {
            true => Err(MergeProblem::DirectoryTarget(text())),
            false => Ok(inode),
        }
    }

    /// The directory at the path `parts`. With [`Missing::Make`] it is created if
    /// necessary, and every name in the path belongs to this layer from then on.
    fn walk(&mut self, parts: &[&[u8]], missing: Missing) -> Result<Option<InodeId>, MergeProblem> {
        let mut path = vec![ROOT];
        let mut links = 0;
        // The last link that was followed, for the message if `..` leaves the root.
        let mut followed = (String::new(), String::new());
        let escape = |(link, target): &(String, String)| MergeProblem::SymlinkEscape {
            link: link.clone(),
            target: target.clone(),
        };
        // Owned, because targets of links are inserted while the tree changes.
        let mut rest: VecDeque<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        while let Some(part) = rest.pop_front() {
            if part == b".." {
                // From a link's target: `parts` contains none.
                path.pop();
                if path.is_empty() {
                    return Err(escape(&followed));
                }
                continue;
            }
            let here = path.last().copied().unwrap_or(ROOT);
            let edge = self.tree.lookup(here, &part);
            let kind = edge.map(|edge| &self.tree.inode(edge.inode).kind);
            match (edge, kind) {
                (Some(mut edge), Some(InodeKind::Directory(_))) => {
                    if missing == Missing::Make {
                        edge.layer = self.layer;
                        self.tree.link(here, &part, edge);
                    }
                    path.push(edge.inode);
                }
                (Some(edge), Some(InodeKind::Symlink { target })) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(MergeProblem::SymlinkLoop);
                    }
                    followed = (display_name(&part), display_name(target));
                    if target.starts_with(b"/") {
                        if edge.layer == self.layer {
                            return Err(escape(&followed));
                        }
                        path.truncate(1);
                    }
                    for part in split(target).rev() {
                        if part.len() > MAX_NAME {
                            return Err(MergeProblem::BadName);
                        }
                        rest.push_front(part.to_vec());
                    }
                }
                _ if missing == Missing::GiveUp => return Ok(None),
                _ => {
                    let inode = self.make(Inode::implicit_directory())?;
                    let layer = self.layer;
                    self.tree.link(here, &part, Edge { inode, layer });
                    path.push(inode);
                }
            }
        }
        Ok(path.last().copied())
    }

    fn make(&mut self, mut inode: Inode) -> Result<InodeId, MergeProblem> {
        if self.tree.capacity() >= MAX_INODES {
            return Err(MergeProblem::TooMany);
        }
        if matches!(inode.kind, InodeKind::Symlink { .. }) {
            // The only mode that Linux has for symbolic links.
            inode.attributes.mode = 0o777;
        }
        self.tree.add(inode).ok_or(MergeProblem::TooMany)
    }
}

/// The components of a path, without empty ones and `.`.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
}

/// The components of a member's name; `None` if `..` is one of them.
fn parts(path: &[u8]) -> Result<Option<Vec<&[u8]>>, MergeProblem> {
    let parts: Vec<&[u8]> = split(path).collect();
    if parts.contains(&&b".."[..]) {
        return Ok(None);
    }
    let too_long = path.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_NAME);
    match too_long || path.contains(&0) {
        true => Err(MergeProblem::BadName),
        false => Ok(Some(parts)),
    }
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0)
}

#[cfg(test)]
mod tests;
