//! The content of a file as a stream, and all files of a file system.

use std::collections::HashSet;
use std::io::{self, Read};

use microagent_tree::{MAX_DEPTH, TreeError};

use super::blocks::BLOCK;
use super::content::Run;
use super::{Node, RootFs, RootFsError};

/// Reads a file from begin to end; holes are zeros.
#[derive(Debug)]
pub struct Reader<'a> {
    fs: &'a RootFs,
    runs: std::vec::IntoIter<Run>,
    /// The run that is read, or comes next.
    run: Option<Run>,
    offset: u64,
    size: u64,
}

/// Takes a path and the file there.
pub type Visit<'a> = dyn FnMut(&[u8], &Node) -> Result<(), TreeError> + 'a;

impl RootFs {
    /// The content of a regular file.
    ///
    /// # Errors
    /// [`RootFsError`].
    pub fn reader(&self, node: &Node) -> Result<Reader<'_>, RootFsError> {
        self.budget.file(node.size())?;
        let runs = self.runs(node)?;
        self.budget.data(runs.iter().map(|run| run.len).sum())?;
        let mut runs = runs.into_iter();
        Ok(Reader {
            fs: self,
            run: runs.next(),
            runs,
            offset: 0,
            size: node.size(),
        })
    }

    /// The file with an inode number that was found before.
    ///
    /// # Errors
    /// [`RootFsError`].
    pub fn file(&self, number: u32) -> Result<Node, RootFsError> {
        self.node(number)
    }

    /// Passes all files and their paths to `visit`.
    ///
    /// # Errors
    /// Those of `visit`, and [`RootFsError`] in [`TreeError::Other`].
    pub fn walk(&self, visit: &mut Visit<'_>) -> Result<(), TreeError> {
        let mut seen = HashSet::new();
        let mut pending = vec![(Vec::new(), self.root()?, 0)];
        while let Some((path, directory, depth)) = pending.pop() {
            if !seen.insert(directory.number()) {
                return Err(RootFsError::damaged("a directory has several names").into());
            }
            if depth >= MAX_DEPTH {
                return Err(TreeError::Limit("it has too many nested directories"));
            }
            let mut listing = self.listing(&directory)?;
            while let Some((name, number)) = listing.next(self)? {
                self.budget.file(0)?;
                let node = self.node(number)?;
                let path = match &path[..] {
                    b"" => name,
                    path => [path, b"/", &name].concat(),
                };
                visit(&path, &node)?;
                if node.is_directory() {
                    pending.push((path, node, depth + 1));
                }
            }
        }
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.size - self.offset).min(buffer.len() as u64);
        if left == 0 {
            return Ok(0);
        }
        while let Some(run) = self.run {
            if self.offset < (run.logical + run.len) * BLOCK && run.physical.is_some() {
                break;
            }
            self.run = self.runs.next();
        }
        let run = self.run.and_then(|run| Some((run, run.physical?)));
        let start = run.map_or(u64::MAX, |(run, _)| run.logical * BLOCK);
        let part = match run {
            // A hole.
            _ if self.offset < start => {
                let part = left.min(start - self.offset) as usize;
                buffer[..part].fill(0);
                part
            }
            Some((run, physical)) => {
                let part = left.min(start + run.len * BLOCK - self.offset) as usize;
                let at = physical
                    .checked_mul(BLOCK)
                    .and_then(|at| at.checked_add(self.offset - start))
                    .ok_or(io::ErrorKind::InvalidData)?;
                let read = self.fs.blocks.read(&mut buffer[..part], at);
                read.map_err(io::Error::other)?;
                part
            }
            None => 0,
        };
        self.offset += part as u64;
        Ok(part)
    }
}
