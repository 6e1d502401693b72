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
    pub(super) place: Place,
}

/// What has the name of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Directory(InodeId),
    /// A file of another type, or a symbolic link that is not followed.
    File,
    Nothing,
}

impl Step<'_> {
    pub(super) fn directory(&self) -> Option<InodeId> {
        match self.place {
            Place::Directory(inode) => Some(inode),
            Place::File | Place::Nothing => None,
        }
    }
}

/// Resolves the path `parts` of a member of layer number `layer`, and all symbolic links in it, to
/// a path without symbolic links; adds the number of components to `work`.
///
/// A link that leads to or through a file is not followed: a member below it replaces the link by a
/// directory, and not the file. So is a link of a lower layer that is in a loop; one of this layer
/// is an error. (podman replaces every link of a lower layer, umoci refuses all of these.)
pub(super) fn resolve<'a>(
    tree: &'a Tree,
    parts: &[&'a [u8]],
    layer: usize,
    work: &mut u64,
) -> Result<Vec<Step<'a>>, MergeProblem> {
    let mut path: Vec<Step<'a>> = Vec::with_capacity(parts.len());
    let mut links = Links::default();
    for name in parts {
        *work += 1;
        let edge = edge(tree, &path, name);
        if let Some(edge) = edge
            && let InodeKind::Symlink { target } = &tree.inode(edge.inode).kind
        {
            match links.follow(tree, &path, target, work) {
                Ok(led) if led.iter().all(|step| step.place != Place::File) => {
                    path = led;
                    continue;
                }
                Err(MergeProblem::SymlinkLoop) if edge.layer < layer => {}
                Err(problem) => return Err(problem),
                Ok(_) => {}
            }
        }
        path.push(step(tree, name, edge));
    }
    Ok(path)
}

/// The name `name` in the directory that the path leads to.
fn edge(tree: &Tree, path: &[Step<'_>], name: &[u8]) -> Option<Edge> {
    let here = path.last().map_or(Some(ROOT), Step::directory);
    here.and_then(|here| tree.lookup(here, name))
}

fn step<'a>(tree: &Tree, name: &'a [u8], edge: Option<Edge>) -> Step<'a> {
    let place = match edge {
        Some(edge) if tree.is_directory(edge.inode) => Place::Directory(edge.inode),
        Some(_) => Place::File,
        None => Place::Nothing,
    };
    Step { name, place }
}

/// The symbolic links of one resolution.
#[derive(Default)]
struct Links {
    count: usize,
    steps: usize,
}

impl Links {
    /// The path that a link to `target` in the directory at `path` leads to.
    fn follow<'a>(
        &mut self,
        tree: &'a Tree,
        path: &[Step<'a>],
        target: &'a [u8],
        work: &mut u64,
    ) -> Result<Vec<Step<'a>>, MergeProblem> {
        let mut path = path.to_vec();
        let mut rest: Vec<&[u8]> = Vec::new();
        self.expand(target, &mut path, &mut rest)?;
        while let Some(name) = rest.pop() {
            *work += 1;
            if name == b".." {
                path.pop();
                continue;
            }
            let edge = edge(tree, &path, name);
            match edge.map(|edge| &tree.inode(edge.inode).kind) {
                Some(InodeKind::Symlink { target }) => self.expand(target, &mut path, &mut rest)?,
                _ => path.push(step(tree, name, edge)),
            }
        }
        Ok(path)
    }

    /// Adds the components of a link's target to those that are still to be resolved.
    fn expand<'a>(
        &mut self,
        target: &'a [u8],
        path: &mut Vec<Step<'a>>,
        rest: &mut Vec<&'a [u8]>,
    ) -> Result<(), MergeProblem> {
        self.count += 1;
        if self.count > MAX_LINKS {
            return Err(MergeProblem::SymlinkLoop);
        }
        if target.starts_with(b"/") {
            path.clear();
        }
        for name in split(target).rev() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(MergeProblem::SymlinkSteps);
            }
            if name.len() > MAX_NAME {
                return Err(MergeProblem::BadName);
            }
            rest.push(name);
        }
        Ok(())
    }
}

/// The directory at the path `parts`, if it exists.
pub(super) fn find(
    tree: &Tree,
    parts: &[&[u8]],
    layer: usize,
    work: &mut u64,
) -> Result<Option<InodeId>, MergeProblem> {
    let path = resolve(tree, parts, layer, work)?;
    Ok(path.last().map_or(Some(ROOT), Step::directory))
}

/// The name `name` in the directory at the path `parts`, if both exist.
pub(super) fn find_edge(
    tree: &Tree,
    parts: &[&[u8]],
    name: &[u8],
    layer: usize,
    work: &mut u64,
) -> Result<Option<Edge>, MergeProblem> {
    let directory = find(tree, parts, layer, work)?;
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
