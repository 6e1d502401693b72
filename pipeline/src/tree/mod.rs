//! The merged file tree of an image's layers, in memory. Names of an image are
//! resolved only here; they never become paths of the host.
//!
//! A name is an edge from a directory to an inode; several names of one inode
//! are hard links. [`merge`] builds the tree, `disk` writes it.

pub(crate) mod merge;
pub(crate) mod xattr;

use std::collections::{BTreeMap, HashSet};

use crate::tar::entry::{Attributes, Content, Device};

/// The number of an inode in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// The number, below [`Tree::capacity`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The root directory.
pub const ROOT: InodeId = InodeId(0);

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The inode.
    pub inode: InodeId,
    /// The last layer with a member of this name or below it.
    pub layer: usize,
}

/// A file of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its type.
    pub kind: InodeKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: Attributes,
}

/// The type of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory: its names in byte order.
    Directory(BTreeMap<Box<[u8]>, Edge>),
    /// A regular file.
    File {
        /// The layer whose tar holds the content.
        layer: usize,
        /// Its ranges in that tar.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// The target.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A file tree.
#[derive(Debug, Clone)]
pub struct Tree {
    inodes: Vec<Inode>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// An empty root directory: `root:root`, 0755, 1970, as umoci creates it for
    /// an image without a member for it.
    pub fn new() -> Tree {
        Tree {
            inodes: vec![Inode::implicit_directory()],
        }
    }

    /// An inode.
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    pub(crate) fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// The names of a directory; nothing for any other inode.
    pub fn names(&self, id: InodeId) -> impl Iterator<Item = (&[u8], Edge)> {
        let names = match &self.inode(id).kind {
            InodeKind::Directory(names) => Some(names),
            _ => None,
        };
        names
            .into_iter()
            .flatten()
            .map(|(name, edge)| (&**name, *edge))
    }

    /// Looks up a name in a directory.
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<Edge> {
        match &self.inode(directory).kind {
            InodeKind::Directory(names) => names.get(name).copied(),
            _ => None,
        }
    }

    /// The root and every inode that has a name, once each; directories before
    /// their entries.
    pub fn named(&self) -> Vec<InodeId> {
        let mut seen = vec![false; self.capacity()];
        let mut found = vec![ROOT];
        let mut next = 0;
        while let Some(inode) = found.get(next).copied() {
            next += 1;
            for (_, edge) in self.names(inode) {
                if !std::mem::replace(&mut seen[edge.inode.index()], true) {
                    found.push(edge.inode);
                }
            }
        }
        found
    }

    /// The number of inodes ever created, including unreachable ones.
    pub fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Adds an inode without a name; `None` if there are already 2^32 inodes.
    pub(crate) fn add(&mut self, inode: Inode) -> Option<InodeId> {
        let id = u32::try_from(self.inodes.len()).ok()?;
        self.inodes.push(inode);
        Some(InodeId(id))
    }

    /// Sets a name in a directory. An inode that it replaces stays in the tree.
    pub(crate) fn link(&mut self, directory: InodeId, name: &[u8], edge: Edge) {
        if let InodeKind::Directory(names) = &mut self.inode_mut(directory).kind {
            names.insert(name.into(), edge);
        }
    }

    pub(crate) fn unlink(&mut self, directory: InodeId, name: &[u8]) {
        if let InodeKind::Directory(names) = &mut self.inode_mut(directory).kind {
            names.remove(name);
        }
    }

    /// Moves a name to a layer.
    pub(crate) fn touch(&mut self, directory: InodeId, name: &[u8], layer: usize) {
        if let InodeKind::Directory(names) = &mut self.inode_mut(directory).kind
            && let Some(edge) = names.get_mut(name)
        {
            edge.layer = layer;
        }
    }

    /// Removes every name below `directory` whose layer is below `layer`. A loop
    /// rather than a recursion, because the image controls the depth.
    ///
    /// Directories in `cleared` have no such names below them. Those that this
    /// call clears are added, so that a layer that repeats its marks does not
    /// take quadratic time: names that are added later are of `layer` itself.
    /// Returns the number of directories and names visited.
    pub(crate) fn remove_below(
        &mut self,
        directory: InodeId,
        layer: usize,
        cleared: &mut HashSet<InodeId>,
    ) -> u64 {
        let mut pending = vec![directory];
        let mut visited = 0;
        while let Some(directory) = pending.pop() {
            visited += 1;
            if let InodeKind::Directory(names) = &mut self.inode_mut(directory).kind
                && cleared.insert(directory)
            {
                visited += names.len() as u64;
                names.retain(|_, edge| edge.layer >= layer);
                pending.extend(names.values().map(|edge| edge.inode));
            }
        }
        visited
    }

    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inode(id).kind, InodeKind::Directory(_))
    }
}

impl Inode {
    /// A directory without a member in any layer.
    pub(crate) fn implicit_directory() -> Inode {
        Inode {
            kind: InodeKind::Directory(BTreeMap::new()),
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
        }
    }
}
