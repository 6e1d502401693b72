//! Restricts a stack for the comparison with umoci 0.4.7: layers as tools write
//! them that archive a directory, without the cases in which umoci is known to
//! deviate from the specification or from Linux. Each exclusion has its reason
//! beside it; the model comparison covers the excluded cases.

use crate::member::{Compression, Kind, Layer, Member, Sparse};
use crate::model::Model;

/// Maximum file size in bytes: umoci writes holes as zeros.
const LARGEST: u64 = 1 << 20;

/// Replaces a compression that umoci 0.4.7 does not support.
pub fn compression(compression: Compression) -> Compression {
    match compression {
        Compression::Zstd => Compression::Gzip,
        Compression::ZstdFrames => Compression::GzipMembers,
        supported => supported,
    }
}

/// Adjusts the member, or returns `None` to exclude it. `layer` holds the
/// preceding members of its layer.
pub fn member(mut member: Member, model: &Model, layer: &Layer) -> Option<Member> {
    let path = parts(&member.name);
    let name = path.last().copied().unwrap_or_default();
    // umoci unpacks AUFS metadata files like any other file.
    if path
        .iter()
        .any(|part| part.starts_with(b".wh..wh.") && part != b".wh..wh..opq")
    {
        return None;
    }
    // Archiving a directory yields each name once,
    let path = real(model, &path)?;
    let is_there = |other: &Member| {
        let Some(other) = real(model, &parts(&other.name)) else {
            return true;
        };
        match member.kind {
            Kind::Directory => other == path,
            // and nothing below a file,
            _ => other.starts_with(&path),
        }
    };
    if layer.members.iter().any(is_there) {
        return None;
    }
    // and whiteouts before all other members, none of them below a name that is
    // whited out.
    if let Some(hidden) = name.strip_prefix(b".wh.") {
        let mut target = path.clone();
        target.pop();
        if name != b".wh..wh..opq" {
            target.push(hidden.to_vec());
        }
        let conflicts = |other: &Member| {
            let other_path = real(model, &parts(&other.name));
            !is_whiteout(other) || other_path.is_none_or(|other| other.starts_with(&target))
        };
        if layer.members.iter().any(conflicts) {
            return None;
        }
    }
    // umoci removes the existing tree before it links, even if that contains the
    // target or a link on the way to it.
    if let Kind::Hardlink(target) = &member.kind {
        let target = parts(target);
        let real_target = real(model, &target)?;
        let through_links = real_target != target;
        let replaced: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let replaces = model.is_directory(&replaced).is_some();
        if real_target.starts_with(&path) || (through_links && replaces) {
            return None;
        }
    }
    if let Kind::File(body) = &member.kind
        && body.size > LARGEST
    {
        return None;
    }
    // umoci does not support old GNU sparse members.
    if member.form.sparse == Sparse::OldGnu {
        member.form.sparse = Sparse::Pax10;
    }
    // A directory that umoci creates inherits the group of a setgid parent.
    if member.kind == Kind::Directory {
        member.meta.mode &= !0o2000;
    }
    // Go's archive/tar treats an empty PAX record as a deletion.
    member.meta.xattrs.retain(|(_, value)| !value.is_empty());
    // The host's file system may clamp times at or beyond the 32-bit limits.
    let (seconds, _) = member.meta.mtime;
    if !(1 - (1 << 31)..1 << 31).contains(&seconds) {
        member.meta.mtime = (0, 0);
    }
    Some(member)
}

/// The path without symbolic links on the way; `None` if a file is in the way, which umoci does
/// not replace.
fn real(model: &Model, path: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    let Some((name, parents)) = path.split_last() else {
        return Some(Vec::new());
    };
    let parents: Vec<Vec<u8>> = parents.iter().map(|part| part.to_vec()).collect();
    let mut real = model.resolved(&parents).ok()?;
    for length in 1..=real.len() {
        let part: Vec<&[u8]> = real[..length].iter().map(Vec::as_slice).collect();
        if model.is_directory(&part) == Some(false) {
            return None;
        }
    }
    real.push(name.to_vec());
    Some(real)
}

fn is_whiteout(member: &Member) -> bool {
    let path = parts(&member.name);
    path.last().is_some_and(|name| name.starts_with(b".wh."))
}

fn parts(name: &[u8]) -> Vec<&[u8]> {
    let parts = name.split(|byte| *byte == b'/');
    parts.filter(|part| !matches!(*part, b"" | b".")).collect()
}
