//! Names of members, and their resolution in the tree.
//!
//! A symbolic link on the way is resolved as Linux would with the image as its root directory: an
//! absolute target begins at the root, and `..` of the root is the root. Components that do not
//! exist are resolved too, as by `filepath-securejoin`, which umoci and podman use: `..` takes
//! them back, and what remains at the end is created. So a link may point to a directory that has
//! no member.

use super::MergeProblem;
use crate::tree::{Edge, InodeId, InodeKind, ROOT, Tree};

/// The maximum length of a path: `PATH_MAX` without the terminating NUL.
pub(super) const MAX_PATH: usize = 4095;
/// The maximum length of a path component (`NAME_MAX`).
pub(super) const MAX_NAME: usize = 255;
/// The maximum number of symbolic links in the resolution of a path, as in Linux.
pub(super) const MAX_LINKS: usize = 40;
/// The maximum number of components of all symbolic links in the resolution of a path. Linux
/// has no such limit, but without one a name of a few bytes could take 80 000 steps.
pub(super) const MAX_STEPS: usize = 1024;

/// A component of a resolved path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) name: &'a [u8],
    /// The directory; `None` if there is none of this name.
    pub(super) directory: Option<InodeId>,
}

/// Resolves the path `parts`, and all symbolic links in it, to a path without symbolic links; adds
/// the number of components to `work`.
pub(super) fn resolve<'a>(
    tree: &'a Tree,
    parts: &[&'a [u8]],
    work: &mut u64,
) -> Result<Vec<Step<'a>>, MergeProblem> {
    let mut path: Vec<Step<'a>> = Vec::with_capacity(parts.len());
    let mut rest: Vec<&[u8]> = parts.iter().rev().copied().collect();
    let (mut links, mut steps) = (0, 0);
    while let Some(name) = rest.pop() {
        *work += 1;
        if name == b".." {
            path.pop();
            continue;
        }
        let here = path.last().map_or(Some(ROOT), |step| step.directory);
        let edge = here.and_then(|here| tree.lookup(here, name));
        match edge.map(|edge| (edge.inode, &tree.inode(edge.inode).kind)) {
            Some((_, InodeKind::Symlink { target })) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(MergeProblem::SymlinkLoop);
                }
                if target.starts_with(b"/") {
                    path.clear();
                }
                for name in split(target).rev() {
                    steps += 1;
                    if steps > MAX_STEPS {
                        return Err(MergeProblem::SymlinkSteps);
                    }
                    if name.len() > MAX_NAME {
                        return Err(MergeProblem::BadName);
                    }
                    rest.push(name);
                }
            }
            Some((inode, InodeKind::Directory(_))) => path.push(Step {
                name,
                directory: Some(inode),
            }),
            _ => path.push(Step {
                name,
                directory: None,
            }),
        }
    }
    Ok(path)
}

/// The directory at the path `parts`, if it exists.
pub(super) fn find(
    tree: &Tree,
    parts: &[&[u8]],
    work: &mut u64,
) -> Result<Option<InodeId>, MergeProblem> {
    let path = resolve(tree, parts, work)?;
    Ok(path.last().map_or(Some(ROOT), |step| step.directory))
}

/// The name `name` in the directory at the path `parts`, if both exist.
pub(super) fn find_edge(
    tree: &Tree,
    parts: &[&[u8]],
    name: &[u8],
    work: &mut u64,
) -> Result<Option<Edge>, MergeProblem> {
    let directory = find(tree, parts, work)?;
    Ok(directory.and_then(|directory| tree.lookup(directory, name)))
}

/// The components of a path, without empty ones and `.`.
fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
}

/// The components of a name. `..` takes back the component before it, whatever that is in the
/// tree, as in umoci and podman; `None` if it would leave the root directory.
pub(super) fn parts(path: &[u8]) -> Result<Option<Vec<&[u8]>>, MergeProblem> {
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(MergeProblem::BadName);
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in split(path) {
        if part == b".." {
            if parts.pop().is_none() {
                return Ok(None);
            }
            continue;
        }
        if part.len() > MAX_NAME {
            return Err(MergeProblem::BadName);
        }
        parts.push(part);
    }
    Ok(Some(parts))
}

/// Whether a symbolic or hard link may have this target.
pub(super) fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= MAX_PATH && !target.contains(&0)
}
