//! What a layer is made of, said once and used twice: [`crate::archive`] writes
//! it as a tar, [`crate::model`] says what it means.

use std::fmt;

/// An image, from the bottom up.
#[derive(Clone)]
pub struct Stack {
    pub layers: Vec<Layer>,
    /// The size that is asked for its file system.
    pub size_mib: Option<u64>,
}

/// A layer and how it is shipped.
#[derive(Debug, Clone)]
pub struct Layer {
    pub members: Vec<Member>,
    pub compression: Compression,
    pub ending: Ending,
    /// Whether the tar begins with a global extended header, which means nothing.
    pub global_header: bool,
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compression {
    Plain,
    Gzip,
    /// Several gzip members one after another, as parallel compressors write them.
    GzipMembers,
    Zstd,
    /// Several frames, with a skippable one between them.
    ZstdFrames,
}

/// What follows the last member.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// Two zero blocks.
    Marked,
    /// Zeros up to a multiple of 10 KiB, as GNU tar does.
    Padded,
    /// Nothing at all.
    Missing,
}

/// A member of a layer, as its tar is to say it.
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
    /// No name twice.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A file's bytes: runs of data, ascending and apart, zeros elsewhere.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    pub size: u64,
    pub runs: Vec<(u64, Vec<u8>)>,
}

/// How a member is written where tar has several ways.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// GNU's extensions rather than PAX records, where GNU has some.
    pub gnu: bool,
    /// A long name goes into ustar's prefix field if it fits.
    pub prefix: bool,
    /// A directory is written as before ustar: a file with a slash at its end.
    pub old_directory: bool,
    pub sparse: Sparse,
}

/// The forms of a file with holes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sparse {
    /// Every byte is there.
    Dense,
    /// GNU's member type `S`.
    OldGnu,
    Pax00,
    Pax01,
    Pax10,
}

/// A line for each member: a failure is to be read by people.
impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} MiB", self.size_mib)?;
        for layer in &self.layers {
            let Layer {
                compression,
                ending,
                ..
            } = layer;
            writeln!(f, "layer {compression:?} {ending:?}")?;
            for member in &layer.members {
                writeln!(f, "  {member:?}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Long names are repetitions.
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
