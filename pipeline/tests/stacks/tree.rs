//! The common representation of file trees for comparison.

use std::collections::BTreeMap;

use microagent_cas::Digest;

use crate::member::Body;

pub const BLOCK: usize = 4096;

/// Names and inodes. The root is `/`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub names: BTreeMap<Vec<u8>, u64>,
    pub inodes: BTreeMap<u64, Inode>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Inode {
    pub kind: InodeKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InodeKind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// The length of a file and its 4 KiB blocks that are not all zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    pub size: u64,
    pub blocks: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    /// Writes data at any offset.
    pub fn write(&mut self, mut at: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (number, into) = (at / BLOCK as u64, at as usize % BLOCK);
            let (now, later) = data.split_at(data.len().min(BLOCK - into));
            let block = self.blocks.entry(number);
            let block = block.or_insert_with(|| vec![0; BLOCK]);
            block[into..into + now.len()].copy_from_slice(now);
            at += now.len() as u64;
            data = later;
        }
    }

    pub fn without_zeros(mut self) -> Content {
        self.blocks.retain(|_, block| block.iter().any(|b| *b != 0));
        self
    }
}

impl From<&Body> for Content {
    fn from(body: &Body) -> Content {
        let mut content = Content {
            size: body.size,
            ..Content::default()
        };
        for (at, data) in &body.runs {
            content.write(*at, data);
        }
        content.without_zeros()
    }
}

/// Which modification times a listing includes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times {
    All,
    /// Unpacking a later layer changes a directory's time; not all tools restore
    /// it.
    ExceptDirectories,
}

impl Tree {
    /// One line per name with all attributes of the file. Hard links are shown by
    /// their first name.
    pub fn lines(&self, times: Times) -> Vec<String> {
        let mut first: BTreeMap<u64, (&[u8], usize)> = BTreeMap::new();
        for (name, inode) in &self.names {
            first.entry(*inode).or_insert((name, 0)).1 += 1;
        }
        let line = |(name, number): (&Vec<u8>, &u64)| {
            let inode = &self.inodes[number];
            let mut line = format!(
                "{} {} {:04o} {}:{}",
                name.escape_ascii(),
                inode.kind.text(),
                inode.mode,
                inode.uid,
                inode.gid
            );
            if times == Times::All || inode.kind != InodeKind::Directory {
                let (seconds, nanos) = inode.mtime;
                line += &format!(" mtime={seconds}.{nanos:09}");
            }
            let (first, count) = first[number];
            if count > 1 {
                line += &format!(" linked={count}x{}", first.escape_ascii());
            }
            for (name, value) in &inode.xattrs {
                line += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
            }
            line
        };
        self.names.iter().map(line).collect()
    }
}

impl InodeKind {
    fn text(&self) -> String {
        match self {
            InodeKind::Directory => "directory".into(),
            InodeKind::File(content) => {
                let mut all = Vec::new();
                for (number, block) in &content.blocks {
                    all.extend(number.to_le_bytes());
                    all.extend(block);
                }
                let digest = Digest::of(&all).hex();
                format!("file {} {}", content.size, &digest[..16])
            }
            InodeKind::Symlink(target) => format!("link {}", target.escape_ascii()),
            InodeKind::Char(major, minor) => format!("char {major}:{minor}"),
            InodeKind::Block(major, minor) => format!("block {major}:{minor}"),
            InodeKind::Fifo => "fifo".into(),
        }
    }
}

/// Returns the lines that occur in only one of two listings.
pub fn difference(expected: &[String], found: &[String]) -> String {
    let only = |these: &[String], others: &[String], sign| {
        let others: std::collections::BTreeSet<&String> = others.iter().collect();
        let these = these.iter().filter(|line| !others.contains(line));
        these
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    only(expected, found, '-') + &only(found, expected, '+')
}
