//! File trees that can be compared, wherever they were found.

use std::collections::BTreeMap;

use microagent_cas::Digest;

use crate::member::Body;

pub const BLOCK: usize = 4096;

/// Names and what they name. The root is `/`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub names: BTreeMap<Vec<u8>, u64>,
    pub inodes: BTreeMap<u64, Inode>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Inode {
    pub what: What,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A file's length, and its blocks of 4 KiB that are not all zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    pub size: u64,
    pub blocks: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    /// Writes data that begins anywhere.
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

/// What two listings are compared by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Times {
    All,
    /// To unpack a later layer changes a directory's time, and tools differ
    /// about restoring it.
    NotOfDirectories,
}

impl Tree {
    /// A line for each name, with everything that makes the file what it is.
    /// Names of one inode name the first of them.
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
                inode.what.text(),
                inode.mode,
                inode.uid,
                inode.gid
            );
            if times == Times::All || inode.what != What::Directory {
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

    /// Takes away an empty `/lost+found`, which is the file system's own.
    pub fn without_lost_and_found(mut self) -> Tree {
        let inside = b"/lost+found/";
        let is_empty = !self.names.keys().any(|name| name.starts_with(inside));
        let number = self.names.get(&b"/lost+found"[..]);
        let is_directory = number.is_some_and(|n| self.inodes[n].what == What::Directory);
        if is_empty && is_directory {
            self.names.remove(&b"/lost+found"[..]);
        }
        self
    }
}

impl What {
    fn text(&self) -> String {
        match self {
            What::Directory => "directory".into(),
            What::File(content) => {
                let mut all = Vec::new();
                for (number, block) in &content.blocks {
                    all.extend(number.to_le_bytes());
                    all.extend(block);
                }
                let digest = Digest::of(&all).hex();
                format!("file {} {}", content.size, &digest[..16])
            }
            What::Symlink(target) => format!("link {}", target.escape_ascii()),
            What::Char(major, minor) => format!("char {major}:{minor}"),
            What::Block(major, minor) => format!("block {major}:{minor}"),
            What::Fifo => "fifo".into(),
        }
    }
}

/// The lines that only one of two listings has.
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
