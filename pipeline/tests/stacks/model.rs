//! The reference implementation of layer merging, as simple as possible: a map
//! from paths to inodes, to which members are applied one after another.
//!
//! The rules are those of the OCI image specification (`layer.md`, "Applying
//! Changesets", "Whiteouts"). Where it leaves a choice, `docs/architecture.md` and
//! the pipeline's `merge` module document ours. Shares no code with the pipeline.

use std::collections::BTreeMap;

use crate::member::{Kind, Member, Meta};
use crate::tree::{Content, Inode, InodeKind, Tree};

/// The components of a path; the root has none.
type Path = Vec<Vec<u8>>;

/// The tree after the members applied so far.
#[derive(Debug, Clone)]
pub struct Model {
    names: BTreeMap<Path, Name>,
    inodes: BTreeMap<u64, Inode>,
    layer: usize,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: u64,
    /// The last layer that created the name or has a member below it.
    layer: usize,
}

/// An invalid member, with the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused(#[allow(dead_code)] pub &'static str);

impl Default for Model {
    fn default() -> Model {
        let root = implicit();
        let name = Name { inode: 0, layer: 0 };
        Model {
            names: BTreeMap::from([(Vec::new(), name)]),
            inodes: BTreeMap::from([(0, root)]),
            layer: 0,
        }
    }
}

impl Model {
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    pub fn apply(&mut self, member: &Member) -> Result<(), Refused> {
        let path = plain_path(&member.name)?;
        // Metadata files of AUFS are ignored.
        let is_aufs = |part: &Vec<u8>| part.starts_with(b".wh..wh.");
        if (path.iter()).any(|part| is_aufs(part) && part != b".wh..wh..opq") {
            return Ok(());
        }
        let Some((name, parents)) = path.split_last() else {
            return self.root(member);
        };
        if parents.iter().any(is_aufs) {
            return Ok(());
        }
        if parents.iter().any(|part| part.starts_with(b".wh.")) {
            return Err(Refused("below a whiteout"));
        }
        if name == b".wh..wh..opq" {
            let directory = self.make_directory(parents)?;
            self.hide_below(&directory);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Refused("whiteout without a file name"));
            }
            if let Some(directory) = self.find_directory(parents)? {
                self.hide(&joined(&directory, hidden));
            }
            return Ok(());
        }
        self.put(parents, name, member)
    }

    /// The current paths, as a tar would name them, and whether each is a
    /// directory.
    pub fn paths(&self) -> Vec<(Vec<u8>, bool)> {
        let path = |(path, name): (&Path, &Name)| {
            let is_directory = self.inodes[&name.inode].kind == InodeKind::Directory;
            (path.join(&b'/'), is_directory)
        };
        self.names.iter().map(path).collect()
    }

    /// Whether the path is a directory; `None` if it does not exist.
    pub fn is_directory(&self, path: &[&[u8]]) -> Option<bool> {
        let path: Path = path.iter().map(|part| part.to_vec()).collect();
        self.kind(&path).map(|kind| *kind == InodeKind::Directory)
    }

    pub fn tree(&self) -> Tree {
        let name = |(path, name): (&Path, &Name)| {
            let path = [&b"/"[..], &path.join(&b'/')].concat();
            (path, name.inode)
        };
        Tree {
            names: self.names.iter().map(name).collect(),
            inodes: self.inodes.clone(),
        }
    }

    fn root(&mut self, member: &Member) -> Result<(), Refused> {
        if member.kind != Kind::Directory {
            return Err(Refused("the root is not a directory"));
        }
        self.inodes
            .insert(0, inode(InodeKind::Directory, &member.meta));
        Ok(())
    }

    fn put(&mut self, parents: &[Vec<u8>], name: &[u8], member: &Member) -> Result<(), Refused> {
        let new = match &member.kind {
            Kind::Hardlink(target) => {
                let number = self.target(target)?;
                let path = joined(&self.make_directory(parents)?, name);
                self.remove(&path);
                self.name(path, number);
                return Ok(());
            }
            Kind::Symlink(target) if target.is_empty() || target.len() > 4095 => {
                return Err(Refused("invalid symbolic link target"));
            }
            Kind::Symlink(target) => InodeKind::Symlink(target.clone()),
            Kind::Directory => InodeKind::Directory,
            Kind::File(body) => InodeKind::File(Content::from(body)),
            Kind::Char(major, minor) => InodeKind::Char(*major, *minor),
            Kind::Block(major, minor) => InodeKind::Block(*major, *minor),
            Kind::Fifo => InodeKind::Fifo,
        };
        let path = joined(&self.make_directory(parents)?, name);
        // A directory that replaces a directory keeps its content.
        let keeps_content =
            new == InodeKind::Directory && self.kind(&path) == Some(&InodeKind::Directory);
        if !keeps_content {
            self.remove(&path);
        }
        let number = self.inodes.last_key_value().map_or(0, |(last, _)| last + 1);
        self.inodes.insert(number, inode(new, &member.meta));
        self.name(path, number);
        Ok(())
    }

    /// The inode that a hard link refers to.
    fn target(&self, target: &[u8]) -> Result<u64, Refused> {
        if target.is_empty() {
            return Err(Refused("a hard link without a target"));
        }
        let path = plain_path(target)?;
        let Some((name, parents)) = path.split_last() else {
            return Err(Refused("a hard link to the root"));
        };
        let directory = self.find_directory(parents)?;
        let path = directory.map(|directory| joined(&directory, name));
        let found = path.and_then(|path| self.names.get(&path));
        let number = found.ok_or(Refused("a hard link to a missing file"))?.inode;
        match self.inodes[&number].kind {
            InodeKind::Directory => Err(Refused("a hard link to a directory")),
            _ => Ok(number),
        }
    }

    /// Resolves a directory path. Symbolic links are followed and cannot leave the
    /// root.
    fn walk(&self, parts: &[Vec<u8>]) -> Result<Walk, Refused> {
        let mut here: Path = Vec::new();
        let mut ahead: Path = parts.iter().rev().cloned().collect();
        let mut passed = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                here.pop().ok_or(Refused("a link that leaves the root"))?;
                continue;
            }
            let next = joined(&here, &part);
            match self.kind(&next) {
                Some(InodeKind::Directory) => {
                    passed.push(next.clone());
                    here = next;
                }
                Some(InodeKind::Symlink(target)) => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused("a loop of links"));
                    }
                    if target.starts_with(b"/") {
                        if self.names[&next].layer == self.layer {
                            return Err(Refused("an absolute link of the same layer"));
                        }
                        here.clear();
                    }
                    let target = parts_of(target);
                    if target.iter().any(|part| part.len() > 255) {
                        return Err(Refused("a long name in a link"));
                    }
                    ahead.extend(target.into_iter().rev());
                }
                _ => {
                    ahead.push(part);
                    return Ok(Walk {
                        here,
                        ahead,
                        passed,
                    });
                }
            }
        }
        Ok(Walk {
            here,
            ahead,
            passed,
        })
    }

    /// Finds a directory.
    fn find_directory(&self, parts: &[Vec<u8>]) -> Result<Option<Path>, Refused> {
        let walk = self.walk(parts)?;
        Ok(walk.ahead.is_empty().then_some(walk.here))
    }

    /// Finds or creates a directory. Missing components are created; files in the
    /// way are replaced.
    fn make_directory(&mut self, parts: &[Vec<u8>]) -> Result<Path, Refused> {
        let mut parts = parts.to_vec();
        loop {
            let Walk {
                here,
                mut ahead,
                passed,
            } = self.walk(&parts)?;
            for path in &passed {
                self.touch(path);
            }
            let Some(part) = ahead.pop() else {
                return Ok(here);
            };
            let missing = joined(&here, &part);
            self.remove(&missing);
            let number = self.inodes.last_key_value().map_or(0, |(last, _)| last + 1);
            self.inodes.insert(number, implicit());
            self.name(missing.clone(), number);
            parts = missing;
            parts.extend(ahead.into_iter().rev());
        }
    }

    /// Applies a whiteout: removes the name from lower layers.
    fn hide(&mut self, path: &Path) {
        match self.names.get(path) {
            Some(name) if name.layer < self.layer => self.remove(path),
            Some(_) => self.hide_below(path),
            None => {}
        }
    }

    fn hide_below(&mut self, path: &Path) {
        let layer = self.layer;
        self.names
            .retain(|other, name| !is_below(other, path) || name.layer >= layer);
    }

    fn remove(&mut self, path: &Path) {
        self.names
            .retain(|other, _| other != path && !is_below(other, path));
    }

    fn name(&mut self, path: Path, inode: u64) {
        let layer = self.layer;
        self.names.insert(path, Name { inode, layer });
    }

    /// A directory on the path of a layer's member belongs to that layer as well.
    fn touch(&mut self, path: &Path) {
        if let Some(name) = self.names.get_mut(path) {
            name.layer = self.layer;
        }
    }

    fn kind(&self, path: &Path) -> Option<&InodeKind> {
        let name = self.names.get(path)?;
        Some(&self.inodes[&name.inode].kind)
    }
}

/// The result of a path lookup.
struct Walk {
    /// The last existing directory.
    here: Path,
    /// The components that do not exist, last one first.
    ahead: Path,
    /// The directories passed, including those reached through links.
    passed: Vec<Path>,
}

/// Splits a member's name into components.
fn plain_path(name: &[u8]) -> Result<Path, Refused> {
    let path = parts_of(name);
    if path.iter().any(|part| part == b"..") {
        return Err(Refused("a name with .."));
    }
    if name.len() > 4095 || path.iter().any(|part| part.len() > 255) {
        return Err(Refused("a long name"));
    }
    Ok(path)
}

fn parts_of(name: &[u8]) -> Path {
    let parts = name.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
    parts.map(<[u8]>::to_vec).collect()
}

fn joined(directory: &Path, name: &[u8]) -> Path {
    let mut path = directory.clone();
    path.push(name.to_vec());
    path
}

fn is_below(path: &Path, directory: &Path) -> bool {
    path.len() > directory.len() && path.starts_with(directory)
}

/// A directory without a member in any layer.
fn implicit() -> Inode {
    let meta = Meta {
        mode: 0o755,
        ..Meta::default()
    };
    inode(InodeKind::Directory, &meta)
}

/// A member's attributes as written to the file system: times are clamped to the
/// range of an ext4 inode, symbolic links have mode 0777, capabilities lose the
/// root user id of their namespace, and SELinux labels of the builder as well as
/// attributes outside Linux's namespaces are dropped.
fn inode(kind: InodeKind, meta: &Meta) -> Inode {
    const LATEST: i64 = (1 << 34) - (1 << 31) - 1;
    let mtime = match meta.mtime {
        (seconds, _) if seconds > LATEST => (LATEST, 0),
        (seconds, _) if seconds < -(1 << 31) => (-(1 << 31), 0),
        mtime => mtime,
    };
    let namespaces = [
        &b"user."[..],
        b"trusted.",
        b"security.",
        b"system.posix_acl_",
    ];
    let kept = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let known = namespaces.iter().any(|space| name.starts_with(space));
        let value = match (&name[..], value.len(), value.get(3)) {
            // capabilities(7): VFS_CAP_REVISION_3 is revision 2 plus a user id.
            (b"security.capability", 24, Some(3)) => {
                let mut value = value[..20].to_vec();
                value[3] = 2;
                value
            }
            _ => value.clone(),
        };
        (known && name != b"security.selinux").then(|| (name.clone(), value))
    };
    Inode {
        mode: match kind {
            InodeKind::Symlink(_) => 0o777,
            _ => meta.mode,
        },
        kind,
        uid: meta.uid,
        gid: meta.gid,
        mtime,
        xattrs: meta.xattrs.iter().filter_map(kept).collect(),
    }
}
