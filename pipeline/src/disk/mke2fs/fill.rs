//! Copies a tree into an empty image with `debugfs`.
//!
//! # Limits of debugfs
//! A command is one line, so a name with a line break is rejected, and so is
//! one whose line would exceed the buffer. debugfs reports errors on standard
//! error and continues; any line there other than its banner is a failure.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use microagent_cas::{ScratchDir, StoreError};

use super::{command, failed, program_failed};
use crate::disk::error::{Mke2fsError, Mke2fsFailure};
use crate::disk::ext4;
use crate::tar::entry::{Attributes, Content, Device, display_name};
use crate::tree::{Edge, Inode, InodeId, InodeKind, ROOT, Tree};

/// The maximum size of a batch, in bytes of content.
const BATCH_BYTES: u64 = 256 << 20;
/// The maximum number of files in a batch.
const BATCH_FILES: usize = 4096;
/// The maximum length of a line, below the buffer of debugfs (`BUFSIZ`).
const MAX_LINE: usize = 8000;
/// The space in a directory block besides `.`, `..` and the checksum.
const DIRECTORY_BLOCK: usize = 4000;

/// Copies a tree into an image, one batch of commands at a time.
pub(super) struct Fill<'a> {
    debugfs: &'a Path,
    tree: &'a Tree,
    tars: &'a [File],
    directory: &'a ScratchDir,
    image: &'a Path,
    script: Vec<u8>,
    /// The number of files in this batch, and their total size.
    files: usize,
    bytes: u64,
    /// The number of names of each inode so far.
    seen: Vec<u32>,
}

impl<'a> Fill<'a> {
    pub(super) fn new(
        debugfs: &'a Path,
        tree: &'a Tree,
        tars: &'a [File],
        directory: &'a ScratchDir,
        image: &'a Path,
    ) -> Fill<'a> {
        Fill {
            debugfs,
            tree,
            tars,
            directory,
            image,
            script: Vec::new(),
            files: 0,
            bytes: 0,
            seen: vec![0; tree.capacity()],
        }
    }

    /// Copies the whole tree into the image.
    pub(super) fn all(&mut self) -> Result<(), Mke2fsFailure> {
        let tree = self.tree;
        // The tree may have one of its own.
        self.line(b"/", &[b"rmdir", b"/lost+found"])?;
        let mut first_names: Vec<Option<Vec<u8>>> = vec![None; tree.capacity()];
        let mut pending: Vec<(InodeId, Vec<u8>)> = vec![(ROOT, b"/".to_vec())];
        while let Some((directory, path)) = pending.pop() {
            self.line(&path, &[b"cd", &path])?;
            let mut links: Vec<(Vec<u8>, Edge)> = Vec::new();
            for (name, edge) in tree.names(directory) {
                let below = match path.as_slice() {
                    b"/" => [b"/", name].concat(),
                    _ => [&path, &b"/"[..], name].concat(),
                };
                let inode = tree.inode(edge.inode);
                self.seen[edge.inode.index()] += 1;
                if first_names[edge.inode.index()].is_some() {
                    links.push((below, edge));
                    continue;
                }
                self.make(name, &below, inode)?;
                self.set_xattrs(&below, inode)?;
                match inode.kind {
                    InodeKind::Directory(_) => pending.push((edge.inode, below)),
                    _ => {
                        self.set_fields(&below, inode)?;
                        first_names[edge.inode.index()] = Some(below);
                    }
                }
            }
            // `ln` does not extend a directory.
            let need: usize = links.iter().map(|(path, _)| path.len() + 12).sum();
            for _ in 0..need.div_ceil(DIRECTORY_BLOCK) {
                self.line(&path, &[b"expand_dir", &path])?;
            }
            for (below, edge) in links {
                if let Some(first) = &first_names[edge.inode.index()] {
                    self.line(&below, &[b"ln", first, &below])?;
                    let count = self.seen[edge.inode.index()].to_string();
                    self.line(&below, &[b"sif", &below, b"links_count", count.as_bytes()])?;
                }
            }
        }
        // Adding a name to a directory changes its times, so they are set last.
        let mut pending: Vec<(InodeId, Vec<u8>)> = vec![(ROOT, b"/".to_vec())];
        self.set_xattrs(b"/", tree.inode(ROOT))?;
        while let Some((directory, path)) = pending.pop() {
            self.set_fields(&path, tree.inode(directory))?;
            for (name, edge) in tree.names(directory) {
                let below = [path.strip_suffix(b"/").unwrap_or(&path), &b"/"[..], name].concat();
                if tree.is_directory(edge.inode) {
                    pending.push((edge.inode, below));
                }
            }
        }
        Ok(())
    }

    /// Creates a file in the current directory.
    fn make(&mut self, name: &[u8], path: &[u8], inode: &Inode) -> Result<(), Mke2fsFailure> {
        let (kind, device): (&[u8], _) = match &inode.kind {
            InodeKind::Directory(_) => return self.line(path, &[b"mkdir", name]),
            InodeKind::Symlink { target } => return self.line(path, &[b"symlink", name, target]),
            InodeKind::Fifo => return self.line(path, &[b"mknod", name, b"p"]),
            InodeKind::File { layer, content } => {
                if self.bytes + content.size > BATCH_BYTES || self.files >= BATCH_FILES {
                    let directory = &path[..path.len() - name.len()];
                    self.flush()?;
                    self.line(directory, &[b"cd", directory])?;
                }
                let (file, number) = self.file()?;
                self.copy(*layer, content, &file)?;
                self.bytes += content.size;
                return self.line(path, &[b"write", number.as_bytes(), name]);
            }
            InodeKind::CharDevice(device) => (b"c", device),
            InodeKind::BlockDevice(device) => (b"b", device),
        };
        // mknod truncates a minor number to 16 bits, so the device number is
        // written to the inode, in the new encoding (Linux: `new_encode_dev`).
        let Device { major, minor } = *device;
        let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        self.line(path, &[b"mknod", name, kind, b"0", b"0"])?;
        self.line(path, &[b"sif", path, b"block[0]", b"0"])?;
        let number = number.to_string();
        self.line(path, &[b"sif", path, b"block[1]", number.as_bytes()])
    }

    /// Copies a file's content out of its layer's tar.
    fn copy(&self, layer: usize, content: &Content, file: &File) -> Result<(), Mke2fsFailure> {
        let damaged = || Mke2fsFailure::Layer(layer);
        let tar = self.tars.get(layer).ok_or_else(damaged)?;
        let failed = |error| self.scratch_failed(error);
        file.set_len(content.size).map_err(failed)?;
        let mut buffer = vec![0; 256 << 10];
        for segment in &content.segments {
            let mut done = 0;
            while done < segment.length {
                let left = segment.length - done;
                let want = buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                tar.read_exact_at(&mut buffer[..want], segment.offset + done)
                    .map_err(|_| damaged())?;
                file.write_all_at(&buffer[..want], segment.logical + done)
                    .map_err(failed)?;
                done += want as u64;
            }
        }
        Ok(())
    }

    fn set_fields(&mut self, path: &[u8], inode: &Inode) -> Result<(), Mke2fsFailure> {
        let Attributes { uid, gid, mode, .. } = inode.attributes;
        let kind = match inode.kind {
            InodeKind::Directory(_) => 0o040000,
            InodeKind::File { .. } => 0o100000,
            InodeKind::Symlink { .. } => 0o120000,
            InodeKind::CharDevice(_) => 0o020000,
            InodeKind::BlockDevice(_) => 0o060000,
            InodeKind::Fifo => 0o010000,
        };
        let mut set = |field: &str, value: String| {
            self.line(path, &[b"sif", path, field.as_bytes(), value.as_bytes()])
        };
        set("mode", format!("0{:o}", kind | u32::from(mode)))?;
        set("uid", uid.to_string())?;
        set("gid", gid.to_string())?;
        let (low, extra) = ext4::timestamp(&inode.attributes);
        for time in ["mtime", "atime", "ctime", "crtime"] {
            set(time, format!("@{low}"))?;
            set(&format!("{time}_extra"), extra.to_string())?;
        }
        Ok(())
    }

    fn set_xattrs(&mut self, path: &[u8], inode: &Inode) -> Result<(), Mke2fsFailure> {
        for xattr in &inode.attributes.xattrs {
            let (mut file, number) = self.file()?;
            let written = file.write_all(&xattr.value);
            written.map_err(|error| self.scratch_failed(error))?;
            self.line(
                path,
                &[b"ea_set", b"-f", number.as_bytes(), path, &xattr.name],
            )?;
        }
        Ok(())
    }

    /// A new numbered file, and its name for debugfs.
    fn file(&mut self) -> Result<(File, String), Mke2fsFailure> {
        let number = self.files.to_string();
        self.files += 1;
        let path = self.directory.path().join(&number);
        let file = File::create(&path).map_err(|e| StoreError::io("create", &path, e))?;
        Ok((file, number))
    }

    fn scratch_failed(&self, error: io::Error) -> Mke2fsFailure {
        StoreError::io("write to", self.directory.path(), error).into()
    }

    /// Adds a command: quoted words, with `"` doubled (`ss_parse` of e2fsprogs).
    fn line(&mut self, path: &[u8], words: &[&[u8]]) -> Result<(), Mke2fsFailure> {
        let begin = self.script.len();
        for word in words {
            if word.contains(&b'\n') || word.contains(&b'\r') {
                return Err(bad_name(path));
            }
            self.script.push(b'"');
            for byte in *word {
                if *byte == b'"' {
                    self.script.push(b'"');
                }
                self.script.push(*byte);
            }
            self.script.extend(b"\" ");
        }
        self.script.push(b'\n');
        match self.script.len() - begin > MAX_LINE {
            true => Err(bad_name(path)),
            false => Ok(()),
        }
    }

    /// Runs the pending commands and removes their files.
    pub(super) fn flush(&mut self) -> Result<(), Mke2fsFailure> {
        let script = self.directory.path().join("script");
        std::fs::write(&script, &self.script).map_err(|e| StoreError::io("write", &script, e))?;
        let output = command(self.debugfs)
            .current_dir(self.directory.path())
            .args(["-w", "-f", "script"])
            .arg(self.image)
            .output()
            .map_err(|error| program_failed(self.debugfs, error))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let error = stderr.lines().find(|line| !line.starts_with("debugfs 1."));
        if !output.status.success() || error.is_some() {
            let error = error.unwrap_or("no error message");
            return Err(failed(self.debugfs, error.as_bytes()));
        }
        for number in 0..self.files {
            let path = self.directory.path().join(number.to_string());
            std::fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
        }
        self.script.clear();
        (self.files, self.bytes) = (0, 0);
        Ok(())
    }
}

fn bad_name(path: &[u8]) -> Mke2fsFailure {
    let path = display_name(path);
    Mke2fsError::Name { path }.into()
}
