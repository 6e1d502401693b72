//! Limits of the memory that a tree takes: an image decides how many files it has and how long
//! their names are. What is replaced or hidden counts too, because its inode stays in the tree.

use super::MergeProblem;
use crate::tar::entry::{Attributes, Content};

/// The maximum number of inodes of all layers of an image.
pub(super) const MAX_INODES: usize = 1 << 22;
/// The maximum number of hard links of all layers of an image.
pub(super) const MAX_LINK_NAMES: u64 = 1 << 22;
/// The maximum size of everything of variable length in the tree, in bytes: names, link targets,
/// extended attributes, maps of sparse files. The files of a large distribution image, half a
/// million, take about 30 MiB.
pub(super) const MAX_TEXT: u64 = 256 << 20;

/// What the tree has taken so far.
#[derive(Debug, Default)]
pub(super) struct Budget {
    text: u64,
    links: u64,
}

impl Budget {
    /// Counts a name or a link's target.
    pub(super) fn text(&mut self, text: &[u8]) -> Result<(), MergeProblem> {
        self.bytes(text.len())
    }

    /// Counts a hard link.
    pub(super) fn link(&mut self) -> Result<(), MergeProblem> {
        self.links += 1;
        match self.links > MAX_LINK_NAMES {
            true => Err(MergeProblem::TooManyLinks),
            false => Ok(()),
        }
    }

    /// Counts the extended attributes of an inode.
    pub(super) fn attributes(&mut self, attributes: &Attributes) -> Result<(), MergeProblem> {
        for xattr in &attributes.xattrs {
            self.bytes(size_of_val(xattr) + xattr.name.len() + xattr.value.len())?;
        }
        Ok(())
    }

    /// Counts the map of a file; that of a file without holes is part of its inode.
    pub(super) fn content(&mut self, content: &Content) -> Result<(), MergeProblem> {
        match content.segments.as_slice() {
            [] | [_] => Ok(()),
            segments => self.bytes(size_of_val(segments)),
        }
    }

    fn bytes(&mut self, bytes: usize) -> Result<(), MergeProblem> {
        self.text = self.text.saturating_add(bytes as u64);
        match self.text > MAX_TEXT {
            true => Err(MergeProblem::TooMuchText),
            false => Ok(()),
        }
    }
}
