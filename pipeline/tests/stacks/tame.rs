//! What a stack may hold that is to be compared with umoci 0.4.7: layers as tools
//! write them that pack a directory, less what umoci is known to unpack in
//! another way than the specification or any Linux would have it. Each exclusion
//! says why; all of it is compared with the model nevertheless.

use crate::member::{Compression, Kind, Layer, Member, Sparse};
use crate::model::Model;

/// umoci fills holes with zeros.
const LARGEST: u64 = 1 << 20;

/// The compressions that umoci 0.4.7 knows.
pub fn compression(compression: Compression) -> Compression {
    match compression {
        Compression::Zstd => Compression::Gzip,
        Compression::ZstdFrames => Compression::GzipMembers,
        known => known,
    }
}

/// The member, or nothing if it does not belong here. `layer` is what its layer
/// has so far.
pub fn member(mut member: Member, model: &Model, layer: &Layer) -> Option<Member> {
    let path = parts(&member.name);
    let name = path.last().copied().unwrap_or_default();
    // umoci unpacks the files of AUFS like any others.
    if path
        .iter()
        .any(|part| part.starts_with(b".wh..wh.") && part != b".wh..wh..opq")
    {
        return None;
    }
    // What is in a file system's own directory is refused, and told so.
    if path.first() == Some(&&b"lost+found"[..]) {
        return None;
    }
    // Whoever packs a directory meets every name once.
    let is_there = |other: &Member| {
        let other = parts(&other.name);
        match member.kind {
            Kind::Directory => other == path,
            // Nothing is below a file, either.
            _ => other.starts_with(&path),
        }
    };
    if layer.members.iter().any(is_there) {
        return None;
    }
    // ... and finds directories on the way to it, not links and files.
    for length in 1..path.len() {
        if model.is_directory(&path[..length]) == Some(false) {
            return None;
        }
    }
    // ... and does not tell what lower layers lose after what it adds, or of
    // what is below a name that they lose.
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        let mut lost = path.clone();
        lost.pop();
        if name != b".wh..wh..opq" {
            lost.push(hidden);
        }
        let late = |other: &Member| !is_mark(other) || parts(&other.name).starts_with(&lost);
        if layer.members.iter().any(late) {
            return None;
        }
    }
    // umoci removes what is there before it links, the target included.
    if let Kind::Hardlink(target) = &member.kind
        && parts(target).starts_with(&path)
    {
        return None;
    }
    if let Kind::File(body) = &member.kind
        && body.size > LARGEST
    {
        return None;
    }
    // umoci does not know the type of old sparse files.
    if member.form.sparse == Sparse::OldGnu {
        member.form.sparse = Sparse::Pax10;
    }
    // A directory that umoci has to make inherits the group of a setgid one.
    if member.kind == Kind::Directory {
        member.meta.mode &= !0o2000;
    }
    // Go takes an empty record for one that is taken back.
    member.meta.xattrs.retain(|(_, value)| !value.is_empty());
    // At the ends and beyond them the host cuts, as its file system may need.
    let (seconds, _) = member.meta.mtime;
    if !(1 - (1 << 31)..1 << 31).contains(&seconds) {
        member.meta.mtime = (0, 0);
    }
    Some(member)
}

fn is_mark(member: &Member) -> bool {
    let path = parts(&member.name);
    path.last().is_some_and(|name| name.starts_with(b".wh."))
}

fn parts(name: &[u8]) -> Vec<&[u8]> {
    let parts = name.split(|byte| *byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).collect()
}
