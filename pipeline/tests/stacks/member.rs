//! Describes a layer independently of its encoding: [`crate::archive`] encodes it
//! as a tar, [`crate::model`] computes the expected tree.

use std::fmt;

/// The layers of an image, bottom first.
#[derive(Clone)]
pub struct Stack {
    pub layers: Vec<Layer>,
    /// The requested size of the file system.
    pub size_mib: Option<u64>,
}

/// A layer and its encoding.
#[derive(Debug, Clone)]
pub struct Layer {
    pub members: Vec<Member>,
    pub compression: Compression,
    pub end_of_archive: EndOfArchive,
    /// Whether the tar begins with a global extended header, which readers ignore.
    pub global_header: bool,
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compression {
    Plain,
    Gzip,
    /// Several concatenated gzip members, as parallel compressors write them.
    GzipMembers,
    Zstd,
    /// Several frames, with a skippable one between them.
    ZstdFrames,
}

/// The bytes after the last member.
#[derive(Debug, Clone, Copy)]
pub enum EndOfArchive {
    /// The end-of-archive marker: two zero blocks.
    Marker,
    /// The marker, padded with zeros to a multiple of 10 KiB, as GNU tar does.
    Padded,
    /// Nothing: the archive has no end marker.
    Missing,
}

/// A member of a layer and its encoding in the tar.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub kind: Kind,
    pub meta: Meta,
    pub form: Form,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Directory,
    File(Body),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds after that.
    pub mtime: (i64, u32),
    /// Names are unique.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The content of a file: runs of data in ascending order without overlap, and
/// zeros elsewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    pub size: u64,
    pub runs: Vec<(u64, Vec<u8>)>,
}

/// The encoding of a member where tar allows several.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Use GNU extensions instead of PAX records where they exist.
    pub gnu: bool,
    /// Split a long name into ustar's prefix and name fields if it fits.
    pub prefix: bool,
    /// Encode a directory as V7 tar does: a file whose name ends in a slash.
    pub old_directory: bool,
    pub sparse: Sparse,
}

/// The encodings of a file with holes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sparse {
    /// Not sparse: every byte is stored.
    Dense,
    /// GNU's member type `S`.
    OldGnu,
    Pax00,
    Pax01,
    Pax10,
}

/// One line per member, so that a failure is readable.
impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} MiB", self.size_mib)?;
        for layer in &self.layers {
            let Layer {
                compression,
                end_of_archive,
                ..
            } = layer;
            writeln!(f, "layer {compression:?} {end_of_archive:?}")?;
            for member in &layer.members {
                writeln!(f, "  {member:?}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Long names only repeat one byte.
        let text = |bytes: &[u8]| match bytes.get(..60) {
            Some(begin) => format!("{}… ({})", begin.escape_ascii(), bytes.len()),
            None => bytes.escape_ascii().to_string(),
        };
        write!(f, "{:?} ", text(&self.name))?;
        match &self.kind {
            Kind::File(body) => {
                let runs = body.runs.iter();
                let runs = runs.map(|(at, data)| (at, data.len(), data.first()));
                let runs: Vec<_> = runs.collect();
                write!(f, "File {} {runs:?}", body.size)?;
            }
            Kind::Symlink(target) => write!(f, "Symlink {:?}", text(target))?,
            Kind::Hardlink(target) => write!(f, "Hardlink {:?}", text(target))?,
            other => write!(f, "{other:?}")?,
        }
        let Meta {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = &self.meta;
        write!(f, " {mode:o} {uid}:{gid} {mtime:?} {:?}", self.form)?;
        for (name, value) in xattrs {
            write!(f, " {}={}", text(name), text(value))?;
        }
        Ok(())
    }
}
