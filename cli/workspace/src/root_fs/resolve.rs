//! Paths of the guest. They are resolved with the root of its file system as `/`, as the guest
//! would, and never lead out of it.

use microagent_tree::Shown;

use super::{Node, RootFs, RootFsError};

/// Linux follows at most this many symbolic links in a path.
const MAX_LINKS: usize = 40;

/// The longest path, in bytes (`PATH_MAX`), with the targets of links.
const MAX_PATH: usize = 4096 * 8;

/// Whether a symbolic link at the end of a path is followed. A path that ends in a slash is that of
/// a directory, and followed always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It is.
    Follow,
    /// It stands for itself.
    Keep,
}

/// A file that was found.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub node: Node,
    /// Its path without links: names separated by `/`, from the root; empty for the root itself.
    pub path: Vec<u8>,
}

impl RootFs {
    /// The file at `path`, from the root.
    ///
    /// # Errors
    /// [`RootFsError::NotFound`], [`RootFsError::NotADirectory`], [`RootFsError::Loop`], and those
    /// of the file system.
    pub fn resolve(&self, path: &[u8], last: Last) -> Result<Found, RootFsError> {
        let shown = || Shown::from(path);
        let root = self.root()?;
        // The directories on the way, with their names.
        let mut way: Vec<(Vec<u8>, Node)> = Vec::new();
        let mut rest = components(path);
        let must_be_directory = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut links = 0;
        let mut length = path.len();
        while let Some(name) = rest.pop() {
            let here = way.last().map_or(&root, |(_, node)| node);
            if !here.is_directory() {
                return Err(RootFsError::NotADirectory(shown()));
            }
            match &name[..] {
                b"." => continue,
                b".." => {
                    way.pop();
                    continue;
                }
                _ => {}
            }
            let number = self.lookup(here, &name)?;
            let node = self.node(number.ok_or_else(|| RootFsError::NotFound(shown()))?)?;
            let is_last = rest.is_empty() && !must_be_directory;
            if node.is_symlink() && !(is_last && last == Last::Keep) {
                links += 1;
                let target = self.target(&node)?;
                length += target.len();
                if links > MAX_LINKS || length > MAX_PATH {
                    return Err(RootFsError::Loop(shown()));
                }
                if target.starts_with(b"/") {
                    way.clear();
                }
                rest.extend(components(&target));
                continue;
            }
            way.push((name, node));
        }
        let names: Vec<&[u8]> = way.iter().map(|(name, _)| &name[..]).collect();
        let path = names.join(&b'/');
        let node = way.pop().map_or(root, |(_, node)| node);
        match must_be_directory && !node.is_directory() {
            true => Err(RootFsError::NotADirectory(shown())),
            false => Ok(Found { node, path }),
        }
    }
}

/// The names of a path, the first at the end.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&byte| byte == b'/');
    let names = names.filter(|name| !name.is_empty());
    names.rev().map(<[u8]>::to_vec).collect()
}
