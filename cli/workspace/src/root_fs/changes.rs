//! What differs between two file systems, of which one was made from the other.
//!
//! A file has changed if its type, mode, owner, attributes, content, or modification time has; a
//! directory not if only its time has, but if anything in it has changed. The inode change time
//! decides whether a file needs to be looked at.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use microagent_cas::{Digest, Hasher};
use microagent_tree::{MAX_DEPTH, TreeError};

use super::content::Part;
use super::{Node, RootFs, RootFsError};

/// How a path has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is new.
    Added,
    /// It has changed.
    Changed,
    /// It does not exist any more. What was in a directory is not listed.
    Removed,
}

/// A path that has changed: names separated by `/`, from the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// The path.
    pub path: Vec<u8>,
    /// How.
    pub change: Change,
    /// The inode number of the file, unless it was removed.
    pub node: Option<u32>,
}

/// A directory that is still to be compared.
struct Pair {
    directory: Rc<Directory>,
    old: Option<Node>,
    new: Node,
    depth: usize,
}

/// A directory of the new file system.
struct Directory {
    path: Vec<u8>,
    number: u32,
    above: Option<Rc<Directory>>,
    /// Something in it has changed.
    changed: Cell<bool>,
}

/// All that differs in `new` from `old`, sorted by path. `ignored` paths are left out.
///
/// # Errors
/// [`RootFsError`] in [`TreeError::Other`], and [`TreeError::Limit`].
pub fn changes(
    old: &RootFs,
    new: &RootFs,
    ignored: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Changed>, TreeError> {
    compare(old, Some(old.root()?), new, ignored)
}

/// All that is in `fs`, as what differs from an empty file system.
///
/// # Errors
/// As [`changes`].
pub fn everything(fs: &RootFs, ignored: &dyn Fn(&[u8]) -> bool) -> Result<Vec<Changed>, TreeError> {
    compare(fs, None, fs, ignored)
}

/// What differs below the root of `new` from what is below the directory `root` of `old`.
fn compare(
    old: &RootFs,
    root: Option<Node>,
    new: &RootFs,
    ignored: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<Changed>, TreeError> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let top = new.root()?;
    let mut pending = vec![Pair {
        directory: Rc::new(Directory {
            path: Vec::new(),
            number: top.number(),
            above: None,
            // It has no name.
            changed: Cell::new(true),
        }),
        old: root,
        new: top,
        depth: 0,
    }];
    while let Some(pair) = pending.pop() {
        if !seen.insert(pair.new.number()) {
            return Err(RootFsError::damaged("a directory has several names").into());
        }
        if pair.depth >= MAX_DEPTH {
            return Err(TreeError::Limit("it has too many nested directories"));
        }
        let before = match &pair.old {
            Some(directory) => old.names(directory)?,
            None => Vec::new(),
        };
        let mut before = before.into_iter().peekable();
        for (name, number) in new.names(&pair.new)? {
            while let Some((gone, _)) = before.next_if(|(other, _)| *other < name) {
                found.push(&pair.directory, &gone, (Change::Removed, None), ignored)?;
            }
            let same = before.next_if(|(other, _)| *other == name);
            let path = join(&pair.directory.path, &name);
            if ignored(&path) {
                continue;
            }
            new.budget.file(0)?;
            let node = new.node(number)?;
            let former = match same {
                Some((_, number)) => Some(old.node(number)?),
                None => None,
            };
            match &former {
                None => {
                    found.push(
                        &pair.directory,
                        &name,
                        (Change::Added, Some(number)),
                        ignored,
                    )?;
                }
                Some(former) if !is_same(old, former, new, &node)? => {
                    found.push(
                        &pair.directory,
                        &name,
                        (Change::Changed, Some(number)),
                        ignored,
                    )?;
                }
                Some(_) => {}
            }
            if node.is_directory() {
                pending.push(Pair {
                    directory: Rc::new(Directory {
                        path,
                        number,
                        above: Some(Rc::clone(&pair.directory)),
                        changed: Cell::new(false),
                    }),
                    old: former.filter(Node::is_directory),
                    new: node,
                    depth: pair.depth + 1,
                });
            }
        }
        for (gone, _) in before {
            found.push(&pair.directory, &gone, (Change::Removed, None), ignored)?;
        }
    }
    Ok(found.finish())
}

/// How many bytes of paths are kept.
const MAX_PATHS: usize = 256 << 20;

#[derive(Default)]
struct Found {
    changed: Vec<Changed>,
    /// The directories in which something has changed.
    directories: Vec<Rc<Directory>>,
    bytes: usize,
}

impl Found {
    fn push(
        &mut self,
        directory: &Rc<Directory>,
        name: &[u8],
        (change, node): (Change, Option<u32>),
        ignored: &dyn Fn(&[u8]) -> bool,
    ) -> Result<(), TreeError> {
        let path = join(&directory.path, name);
        if ignored(&path) {
            return Ok(());
        }
        let mut above = Some(directory);
        while let Some(directory) = above.filter(|it| !it.changed.replace(true)) {
            self.bytes += directory.path.len() + size_of::<Changed>();
            self.directories.push(Rc::clone(directory));
            above = directory.above.as_ref();
        }
        self.bytes += path.len() + size_of::<Changed>();
        if self.bytes > MAX_PATHS {
            return Err(TreeError::Limit("too much has changed"));
        }
        self.changed.push(Changed { path, change, node });
        Ok(())
    }

    /// All changes, with the directories that they are in.
    fn finish(mut self) -> Vec<Changed> {
        let known: HashSet<&[u8]> = self.changed.iter().map(|found| &found.path[..]).collect();
        let others = (self.directories.iter())
            .filter(|directory| !known.contains(&directory.path[..]))
            .map(|directory| Changed {
                path: directory.path.clone(),
                change: Change::Changed,
                node: Some(directory.number),
            });
        let others: Vec<_> = others.collect();
        self.changed.extend(others);
        self.changed.sort_unstable();
        self.changed
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// Whether a file is the same in both, apart from its names.
fn is_same(old: &RootFs, former: &Node, new: &RootFs, node: &Node) -> Result<bool, RootFsError> {
    if former.identity() == node.identity() {
        return Ok(true);
    }
    let (before, after) = (old.entry(former, b"")?, new.entry(node, b"")?);
    if before.kind != after.kind
        || (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid)
        || before.attributes != after.attributes
    {
        return Ok(false);
    }
    if node.is_directory() {
        return Ok(true);
    }
    if before.modified != after.modified {
        return Ok(false);
    }
    Ok(!node.is_file() || digest(old, former)? == digest(new, node)?)
}

fn digest(fs: &RootFs, node: &Node) -> Result<Digest, RootFsError> {
    let mut hasher = Hasher::new();
    let zeros = [0; 4096];
    fs.content(node, &mut |part| {
        match part {
            Part::Data(bytes) => hasher.update(bytes),
            Part::Hole(length) => {
                let mut left = length;
                while left > 0 {
                    let part = left.min(zeros.len() as u64);
                    hasher.update(&zeros[..part as usize]);
                    left -= part;
                }
            }
        }
        Ok::<_, RootFsError>(())
    })?;
    Ok(hasher.finish())
}
