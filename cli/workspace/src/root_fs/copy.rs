//! A tree of the file system as entries.

use std::collections::{HashMap, HashSet};

use microagent_tree::{Kind, MAX_DEPTH, Sink, TreeError};

use super::content::Part;
use super::directory::Listing;
use super::{Node, RootFs, RootFsError};

impl From<RootFsError> for TreeError {
    fn from(error: RootFsError) -> TreeError {
        TreeError::other(error)
    }
}

/// A directory that is being read.
struct Level {
    listing: Listing,
    path: Vec<u8>,
}

impl RootFs {
    /// Passes the tree at `node` to `sink`.
    ///
    /// # Errors
    /// Those of the sink, and [`RootFsError`] in [`TreeError::Other`].
    pub fn copy(&self, node: &Node, sink: &mut dyn Sink) -> Result<(), TreeError> {
        let mut seen = Seen::default();
        let mut open = Vec::new();
        self.pass(node, Vec::new(), &mut seen, &mut open, sink)?;
        while let Some(level) = open.last_mut() {
            let Some((name, number)) = level.listing.next(self)? else {
                open.pop();
                continue;
            };
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let node = self.node(number)?;
            self.pass(&node, path, &mut seen, &mut open, sink)?;
        }
        Ok(())
    }

    /// Passes on one file; a directory is put onto `open`.
    fn pass(
        &self,
        node: &Node,
        path: Vec<u8>,
        seen: &mut Seen,
        open: &mut Vec<Level>,
        sink: &mut dyn Sink,
    ) -> Result<(), TreeError> {
        let mut entry = self.entry(node, &path)?;
        self.budget
            .file(if node.is_file() { node.size() } else { 0 })?;
        if node.is_directory() {
            if !seen.directories.insert(node.number) {
                return Err(RootFsError::damaged("a directory has several names").into());
            }
            if open.len() >= MAX_DEPTH {
                return Err(TreeError::Limit("it has too many nested directories"));
            }
            sink.entry(&entry)?;
            let listing = self.listing(node)?;
            open.push(Level { listing, path });
            return Ok(());
        }
        if node.links() > 1 {
            if let Some(first) = seen.linked.get(&node.number) {
                entry.kind = Kind::HardLink {
                    target: first.clone(),
                };
                entry.attributes.clear();
                return sink.entry(&entry);
            }
            seen.linked.insert(node.number, path);
        }
        sink.entry(&entry)?;
        if node.is_file() {
            self.content(node, &mut |part| match part {
                Part::Data(bytes) => sink.data(bytes),
                Part::Hole(length) => sink.hole(length),
            })?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    directories: HashSet<u32>,
    /// The first paths of files with several names. As many as the budget has files.
    linked: HashMap<u32, Vec<u8>>,
}
