//! What a workspace has changed in its image, as a layer of an image: a tar with whiteouts
//! (image-spec, `layer.md`).
//!
//! | change | member |
//! |---|---|
//! | added, changed | the file, with owner, mode, time, extended attributes and content |
//! | removed | an empty file `.wh.NAME` |
//!
//! If one name of a file with several names has changed, the layer has all of them. Sockets are left
//! out: a tar has none. The same file systems give the same bytes.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use microagent_tree::{Entry, Kind, Shown, TreeError};
use tar::{Builder, EntryType, Header};

use crate::root_fs::{Change, Changed, Node, RootFs, RootFsError};

/// How the names of whiteouts begin.
const WHITEOUT: &[u8] = b".wh.";

/// The longest path and link target of a header, in bytes.
const HEADER_PATH: usize = 100;

/// The largest number in a header's field for user and group: seven octal digits.
const HEADER_ID: u32 = 0o777_7777;

/// The largest size in a header: eleven octal digits.
const HEADER_SIZE: u64 = 0o777_7777_7777;

/// A layer cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The workspace cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layer cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// A file has a name that means something else in a layer.
    #[error("the file {0} cannot be in a layer: its name is that of a whiteout")]
    Whiteout(Shown),
}

impl From<RootFsError> for LayerError {
    fn from(error: RootFsError) -> LayerError {
        LayerError::Tree(error.into())
    }
}

/// Writes the layer that makes the image's file system that of the workspace, `fs`, which differs
/// by `changed`. Returns how many sockets were left out.
///
/// # Errors
/// [`LayerError`].
pub fn write_layer(fs: &RootFs, changed: &[Changed], out: impl Write) -> Result<u64, LayerError> {
    let mut builder = Builder::new(out);
    let mut sockets = 0;
    let groups = groups(fs, changed)?;
    // The first names of files with several, once they are written.
    let mut written: HashMap<u32, &[u8]> = HashMap::new();
    for member in members(changed, &groups) {
        let name = member.path.rsplit(|&byte| byte == b'/').next();
        let name = name.unwrap_or_default();
        let Some(number) = member.node else {
            let whiteout = [
                &member.path[..member.path.len() - name.len()],
                WHITEOUT,
                name,
            ]
            .concat();
            append(&mut builder, &whiteout_entry(whiteout), io::empty())?;
            continue;
        };
        if name.starts_with(WHITEOUT) {
            return Err(LayerError::Whiteout(Shown::from(member.path)));
        }
        let node = fs.file(number)?;
        let mut entry = fs.entry(&node, member.path)?;
        if entry.kind == Kind::Socket {
            sockets += 1;
            continue;
        }
        if !node.is_directory() && node.links() > 1 {
            match written.get(&number) {
                Some(first) => {
                    entry.kind = Kind::HardLink {
                        target: first.to_vec(),
                    };
                    entry.attributes.clear();
                }
                None => {
                    written.insert(number, member.path);
                }
            }
        }
        match entry.kind {
            Kind::File { .. } => append(&mut builder, &entry, fs.reader(&node)?)?,
            _ => append(&mut builder, &entry, io::empty())?,
        }
    }
    let mut out = builder.into_inner().map_err(LayerError::Write)?;
    out.flush().map_err(LayerError::Write)?;
    Ok(sockets)
}

/// A member of the layer; a whiteout has no node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member<'a> {
    path: &'a [u8],
    node: Option<u32>,
}

/// All members, sorted by path: directories before what is in them.
fn members<'a>(changed: &'a [Changed], groups: &'a HashMap<u32, Vec<Vec<u8>>>) -> Vec<Member<'a>> {
    let own = changed.iter().map(|changed| Member {
        path: &changed.path,
        node: match changed.change {
            Change::Removed => None,
            Change::Added | Change::Changed => changed.node,
        },
    });
    let linked = groups.iter().flat_map(|(number, paths)| {
        paths.iter().map(|path| Member {
            path,
            node: Some(*number),
        })
    });
    let mut members: Vec<_> = own.chain(linked).collect();
    members.sort_unstable();
    members.dedup();
    members
}

/// All names of the files with several names of which one has changed.
fn groups(fs: &RootFs, changed: &[Changed]) -> Result<HashMap<u32, Vec<Vec<u8>>>, LayerError> {
    let mut wanted: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
    let mut links: HashMap<u32, u32> = HashMap::new();
    for changed in changed {
        let Some(number) = changed.node else {
            continue;
        };
        let node = fs.file(number)?;
        if !node.is_directory() && node.links() > 1 {
            wanted.entry(number).or_default().push(changed.path.clone());
            links.insert(number, node.links());
        }
    }
    let complete = |(number, paths): (&u32, &Vec<Vec<u8>>)| {
        links
            .get(number)
            .is_some_and(|&links| links as usize == paths.len())
    };
    if wanted.iter().all(complete) {
        return Ok(wanted);
    }
    // It visits every name once, those that have changed too.
    wanted.values_mut().for_each(Vec::clear);
    fs.walk(&mut |path: &[u8], node: &Node| {
        if let Some(paths) = wanted.get_mut(&node.number()) {
            paths.push(path.to_vec());
        }
        Ok(())
    })?;
    Ok(wanted)
}

fn whiteout_entry(path: Vec<u8>) -> Entry {
    Entry {
        path,
        kind: Kind::File { size: 0 },
        mode: 0,
        uid: 0,
        gid: 0,
        modified: microagent_tree::Time {
            seconds: 0,
            nanos: 0,
        },
        attributes: Vec::new(),
    }
}

/// Appends one member, with an extended header (POSIX pax) for what the header has no room for.
fn append<W: Write>(
    builder: &mut Builder<W>,
    entry: &Entry,
    content: impl Read,
) -> Result<(), LayerError> {
    let mut extended: Vec<(String, Vec<u8>)> = Vec::new();
    let mut header = Header::new_ustar();
    let mut path = entry.path.clone();
    let mut size = 0;
    let mut target: &[u8] = b"";
    let mut device = (0, 0);
    header.set_entry_type(match &entry.kind {
        Kind::Directory => {
            path.push(b'/');
            EntryType::Directory
        }
        Kind::File { size: length } => {
            size = *length;
            EntryType::Regular
        }
        Kind::Symlink { target: to } => {
            target = to;
            EntryType::Symlink
        }
        Kind::HardLink { target: to } => {
            target = to;
            EntryType::Link
        }
        Kind::CharDevice { major, minor } => {
            device = (*major, *minor);
            EntryType::Char
        }
        Kind::BlockDevice { major, minor } => {
            device = (*major, *minor);
            EntryType::Block
        }
        Kind::Fifo | Kind::Socket => EntryType::Fifo,
    });
    let mut extend = |key: &str, value: &[u8]| extended.push((key.to_owned(), value.to_vec()));
    let raw = header.as_ustar_mut();
    let raw = raw.ok_or_else(|| LayerError::Write(io::ErrorKind::InvalidData.into()))?;
    let place = |field: &mut [u8; HEADER_PATH], value: &[u8]| {
        let fits = value.len() <= HEADER_PATH;
        let value = &value[..value.len().min(HEADER_PATH)];
        field[..value.len()].copy_from_slice(value);
        fits
    };
    if !place(&mut raw.name, &path) {
        extend("path", &path);
    }
    if !place(&mut raw.linkname, target) {
        extend("linkpath", target);
    }
    header.set_mode(entry.mode & 0o7777);
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > HEADER_ID {
            extend(key, id.to_string().as_bytes());
        }
    }
    header.set_uid(entry.uid.min(HEADER_ID).into());
    header.set_gid(entry.gid.min(HEADER_ID).into());
    if size > HEADER_SIZE {
        extend("size", size.to_string().as_bytes());
    }
    header.set_size(size.min(HEADER_SIZE));
    let modified = entry.modified;
    let in_header = u64::try_from(modified.seconds)
        .ok()
        .filter(|&seconds| seconds <= HEADER_SIZE);
    if modified.nanos != 0 || in_header.is_none() {
        extend("mtime", time(modified).as_bytes());
    }
    header.set_mtime(in_header.unwrap_or_default());
    // Twenty bits of the minor number have seven octal digits.
    header
        .set_device_major(device.0)
        .map_err(LayerError::Write)?;
    header
        .set_device_minor(device.1)
        .map_err(LayerError::Write)?;
    for attribute in &entry.attributes {
        // A name that is not UTF-8 is no key of a tar; none that Linux defines is.
        let Ok(name) = std::str::from_utf8(&attribute.name) else {
            continue;
        };
        extend(&format!("SCHILY.xattr.{name}"), &attribute.value);
    }
    if !extended.is_empty() {
        let pairs = extended.iter().map(|(key, value)| (&**key, &**value));
        builder
            .append_pax_extensions(pairs)
            .map_err(LayerError::Write)?;
    }
    header.set_cksum();
    builder.append(&header, content).map_err(LayerError::Write)
}

/// Seconds with a fraction, which may be negative as a whole.
fn time(time: microagent_tree::Time) -> String {
    match (time.seconds, time.nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds, nanos) if seconds >= 0 => format!("{seconds}.{nanos:09}"),
        // -1.25 is -2 and 0.75.
        (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

#[cfg(test)]
mod tests;
