//! The tree an image's layers add up to, in memory. It is the only place where
//! an image's names are resolved: no path of the host is ever made from them.
//!
//! A name is an edge from a directory to an inode; two names of one inode are
//! hard links. [`crate::tree::merge`] changes the tree, [`crate::disk::ext4`] writes it.

pub(crate) mod merge;
pub(crate) mod xattr;

use std::collections::BTreeMap;

use crate::tar::entry::{Attributes, Content, Device};

/// An inode's number in its tree.
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
    /// What it names.
    pub inode: InodeId,
    /// The last layer that made this name or passed through it.
    pub layer: usize,
}

/// A file of any type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: InodeKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: Attributes,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory: its names in byte order.
    Directory(BTreeMap<Box<[u8]>, Edge>),
    /// A regular file.
    File {
        /// The layer whose tar holds the content.
        layer: usize,
        /// Where in it.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
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
    /// An empty root directory: `root:root`, 0755, 1970, which is what umoci
    /// leaves for an image that does not say.
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

    /// What a directory's name stands for.
    pub fn lookup(&self, directory: InodeId, name: &[u8]) -> Option<Edge> {
        match &self.inode(directory).kind {
            InodeKind::Directory(names) => names.get(name).copied(),
            _ => None,
        }
    }

    /// Every inode that has a name, once, and the root; directories before
    /// what is in them.
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

    /// How many inodes were ever made; dead ones included.
    pub fn capacity(&self) -> usize {
        self.inodes.len()
    }

    /// Adds an inode without a name. Fails when there are 2^32 of them.
    pub(crate) fn add(&mut self, inode: Inode) -> Option<InodeId> {
        let id = u32::try_from(self.inodes.len()).ok()?;
        self.inodes.push(inode);
        Some(InodeId(id))
    }

    /// Sets a name of a directory; what it named before stays, nameless or not.
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

    /// Removes every name below `directory` that no layer from `layer` on has
    /// touched. A loop, not a recursion: an image chooses how deep it is.
    pub(crate) fn remove_below(&mut self, directory: InodeId, layer: usize) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            if let InodeKind::Directory(names) = &mut self.inode_mut(directory).kind {
                names.retain(|_, edge| edge.layer >= layer);
                pending.extend(names.values().map(|edge| edge.inode));
            }
        }
    }

    pub(crate) fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inode(id).kind, InodeKind::Directory(_))
    }
}

impl Inode {
    /// A directory that no layer has a member for.
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
