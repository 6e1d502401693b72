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
    pseudo_links: BTreeMap<Vec<u8>, u64>,
    layer: usize,
}

/// Where AUFS keeps files with several names.
const PSEUDO_LINKS: &[u8] = b".wh..wh.plnk";

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: u64,
    /// The last layer that created the name or has a member below it.
    layer: usize,
}

/// An invalid member, with the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refused(#[allow(dead_code)] pub &'static str);

const LOOP: Refused = Refused("a loop of links");

impl Default for Model {
    fn default() -> Model {
        let root = implicit();
        let name = Name { inode: 0, layer: 0 };
        Model {
            names: BTreeMap::from([(Vec::new(), name)]),
            inodes: BTreeMap::from([(0, root)]),
            pseudo_links: BTreeMap::new(),
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
        let Some((name, parents)) = path.split_last() else {
            return self.root(member);
        };
        // Metadata of AUFS is ignored, but a file in its directory of pseudo-links is the content
        // of the hard links to it.
        if *parents == [PSEUDO_LINKS.to_vec()] {
            return self.put_pseudo_link(name, member);
        }
        if parents.iter().any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(());
        }
        if name == b".wh..wh..opq" {
            if let Some(directory) = self.find_directory(parents)? {
                self.hide_below(&directory);
            }
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

    /// The current paths of symbolic links.
    pub fn links(&self) -> Vec<Vec<u8>> {
        let is_link = |(_, name): &(&Path, &Name)| {
            matches!(self.inodes[&name.inode].kind, InodeKind::Symlink(_))
        };
        let links = self.names.iter().filter(is_link);
        links.map(|(path, _)| path.join(&b'/')).collect()
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
                let path = joined(&self.make_directory(parents, name)?, name);
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
        let path = joined(&self.make_directory(parents, name)?, name);
        // A directory that replaces a directory keeps its content.
        let keeps_content =
            new == InodeKind::Directory && self.kind(&path) == Some(&InodeKind::Directory);
        if !keeps_content {
            self.remove(&path);
        }
        let number = self.add(inode(new, &member.meta));
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
        let number = match *parents == [PSEUDO_LINKS.to_vec()] {
            true => self.pseudo_links.get(name).copied(),
            false => {
                let directory = self.find_directory(parents)?;
                let path = directory.map(|directory| joined(&directory, name));
                path.and_then(|path| Some(self.names.get(&path)?.inode))
            }
        };
        let number = number.ok_or(Refused("a hard link to a missing file"))?;
        match self.inodes[&number].kind {
            InodeKind::Directory => Err(Refused("a hard link to a directory")),
            _ => Ok(number),
        }
    }

    /// Resolves a path to one without symbolic links, as in a root directory of its own.
    /// Components that do not exist are kept, as are links to files and lower layers' loops.
    pub fn resolved(&self, parts: &[Vec<u8>]) -> Result<Path, Refused> {
        let mut here: Path = Vec::new();
        let mut limits = (0, 0);
        for part in parts {
            let next = joined(&here, part);
            let is_link = matches!(self.kind(&next), Some(InodeKind::Symlink(_)));
            here = match self.followed(&next, &mut limits) {
                Ok(path) if !is_link || !self.passes_file(&path) => path,
                Err(LOOP) if self.names[&next].layer == self.layer => return Err(LOOP),
                Ok(_) | Err(LOOP) => next,
                Err(refused) => return Err(refused),
            };
        }
        Ok(here)
    }

    /// Follows the links of the last component of a path.
    fn followed(&self, path: &Path, limits: &mut (usize, usize)) -> Result<Path, Refused> {
        let mut here = path.clone();
        let mut ahead: Path = here.pop().into_iter().collect();
        let (links, steps) = limits;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                here.pop();
                continue;
            }
            let next = joined(&here, &part);
            let Some(InodeKind::Symlink(target)) = self.kind(&next) else {
                here = next;
                continue;
            };
            *links += 1;
            if *links > 40 {
                return Err(LOOP);
            }
            if target.starts_with(b"/") {
                here.clear();
            }
            let target = parts_of(target);
            *steps += target.len();
            if *steps > 1024 || target.iter().any(|part| part.len() > 255) {
                return Err(Refused("a long link"));
            }
            ahead.extend(target.into_iter().rev());
        }
        Ok(here)
    }

    /// Whether the path has a file in it or at its end.
    fn passes_file(&self, path: &Path) -> bool {
        let mut kinds = (1..=path.len()).filter_map(|length| self.kind(&path[..length].to_vec()));
        kinds.any(|kind| *kind != InodeKind::Directory)
    }

    /// Finds a directory.
    fn find_directory(&self, parts: &[Vec<u8>]) -> Result<Option<Path>, Refused> {
        let path = self.resolved(parts)?;
        let is_directory = self.kind(&path) == Some(&InodeKind::Directory);
        Ok(is_directory.then_some(path))
    }

    /// Finds or creates a directory for an entry `name`. Missing components are created; files in
    /// the way are replaced.
    fn make_directory(&mut self, parts: &[Vec<u8>], name: &[u8]) -> Result<Path, Refused> {
        let path = self.resolved(parts)?;
        if joined(&path, name).join(&b'/').len() > 4095 {
            return Err(Refused("a long path"));
        }
        for length in 1..=path.len() {
            let path = path[..length].to_vec();
            if self.kind(&path) == Some(&InodeKind::Directory) {
                self.touch(&path);
                continue;
            }
            self.remove(&path);
            let number = self.add(implicit());
            self.name(path, number);
        }
        Ok(path)
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let number = self.inodes.last_key_value().map_or(0, |(last, _)| last + 1);
        self.inodes.insert(number, inode);
        number
    }

    fn put_pseudo_link(&mut self, name: &[u8], member: &Member) -> Result<(), Refused> {
        let number = match &member.kind {
            Kind::Directory => return Ok(()),
            Kind::Hardlink(target) => self.target(target)?,
            Kind::File(body) => {
                let kind = InodeKind::File(Content::from(body));
                self.add(inode(kind, &member.meta))
            }
            _ => return Err(Refused("not generated")),
        };
        self.pseudo_links.insert(name.to_vec(), number);
        Ok(())
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

/// Splits a member's name into components.
fn plain_path(name: &[u8]) -> Result<Path, Refused> {
    let mut path = Path::new();
    for part in parts_of(name) {
        match part == b".." {
            true => drop(path.pop().ok_or(Refused("a name that leaves the root"))?),
            false => path.push(part),
        }
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
