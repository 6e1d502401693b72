//! A root file system made with the host's e2fsprogs (`--mke2fs`): `mke2fs`
//! makes an empty one, its sibling `debugfs` fills it.
//!
//! No root is needed, and no path of the host is made from a name of the
//! image: content and attribute values go through numbered files in the
//! store's `tmp/`, a batch at a time, and names only into `debugfs` commands.
//! UUID, hash seed and times are fixed, so the same programs give the same
//! bytes.
//!
//! # What debugfs cannot do
//! A command is one line, so a name with a line break is refused, and so is
//! one whose line would be longer than its buffer. It reports errors on
//! standard error and goes on; any line there that is not its banner counts as
//! a failure.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_cas::{Digest, Output, ScratchDir, Store, StoreError};

use super::error::{DiskError, Mke2fsError, Mke2fsFailure};
use super::{Size, ext4};
use crate::tar::entry::{Attributes, Content, Device, display_name};
use crate::tree::{Edge, Inode, InodeId, InodeKind, ROOT, Tree};

/// The same features as our own writer's, whatever the host's configuration says.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// The time of everything that has none of its own; 0 would mean now.
const FAKE_TIME: &str = "1";
/// How much content a batch may have.
const BATCH_BYTES: u64 = 256 << 20;
/// How many files a batch may have.
const BATCH_FILES: usize = 4096;
/// The longest line debugfs reads (`BUFSIZ`), with room to spare.
const MAX_LINE: usize = 8000;
/// What fits a directory block beside its own two entries and checksum.
const DIRECTORY_BLOCK: usize = 4000;

/// The two programs.
#[derive(Debug)]
pub(crate) struct Mke2fs {
    mke2fs: PathBuf,
    debugfs: PathBuf,
    digests: [Digest; 2],
}

impl Mke2fs {
    /// The `mke2fs` at `path`, and `debugfs` beside it.
    pub(crate) fn find(store: &Store, path: &Path) -> Result<Mke2fs, Mke2fsFailure> {
        let digest = |path: &Path| -> Result<Digest, Mke2fsFailure> {
            std::fs::metadata(path).map_err(|source| Mke2fsError::Program {
                path: path.to_owned(),
                source,
            })?;
            Ok(store.digest_known(path)?.0)
        };
        // Beside the file itself, where the path is a link.
        let real = path.canonicalize().map_err(|source| Mke2fsError::Program {
            path: path.to_owned(),
            source,
        })?;
        let debugfs = real.with_file_name("debugfs");
        Ok(Mke2fs {
            digests: [digest(&real)?, digest(&debugfs)?],
            mke2fs: real,
            debugfs,
        })
    }

    /// What the node's key has to know of the programs.
    pub(crate) fn inputs(&self) -> Vec<(String, Digest)> {
        let [mke2fs, debugfs] = self.digests;
        vec![("mke2fs".into(), mke2fs), ("debugfs".into(), debugfs)]
    }

    /// Makes the image and keeps it in the store.
    pub(crate) fn build(
        &self,
        store: &Store,
        tree: &Tree,
        tars: &[File],
        seed: &Digest,
        size: Size,
    ) -> Result<Output, Mke2fsFailure> {
        // Our own layout tells the size, and whether the content fits it.
        let (size, inodes) = ext4::measure(tree, seed, size)?;
        let directory = store.scratch_dir()?;
        let image = directory.path().join("image");
        self.format(&image, size, inodes, seed)?;
        let mut fill = Fill {
            tool: self,
            tree,
            tars,
            directory: &directory,
            image: &image,
            script: Vec::new(),
            files: 0,
            bytes: 0,
            seen: vec![0; tree.capacity()],
        };
        fill.all()?;
        fill.flush()?;
        keep(store, &image)
    }

    fn format(
        &self,
        image: &Path,
        size: u64,
        inodes: u32,
        seed: &Digest,
    ) -> Result<(), Mke2fsFailure> {
        let file = File::create(image).map_err(|error| StoreError::io("create", image, error))?;
        file.set_len(size)
            .map_err(|error| StoreError::io("extend", image, error))?;
        let mut uuid = String::new();
        for (index, byte) in ext4::uuid(seed).iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            // Writing to a string cannot fail.
            let _ = write!(uuid, "{dash}{byte:02x}");
        }
        let inodes = inodes.to_string();
        let extended = format!(
            "hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard"
        );
        let output = command(&self.mke2fs)
            .args([
                "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0",
            ])
            .args(["-O", FEATURES, "-N", &inodes, "-U", &uuid, "-E", &extended])
            .arg(image)
            .output()
            .map_err(|e| program_failed(&self.mke2fs, e))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(&self.mke2fs, &output.stderr)),
        }
    }
}

/// Fills an image, a batch of commands at a time.
struct Fill<'a> {
    tool: &'a Mke2fs,
    tree: &'a Tree,
    tars: &'a [File],
    directory: &'a ScratchDir,
    image: &'a Path,
    script: Vec<u8>,
    /// Files of this batch, and how long they are together.
    files: usize,
    bytes: u64,
    /// How many names each inode has got so far.
    seen: Vec<u32>,
}

impl Fill<'_> {
    fn all(&mut self) -> Result<(), Mke2fsFailure> {
        let tree = self.tree;
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
                if below == b"/lost+found" {
                    match &tree.inode(edge.inode).kind {
                        InodeKind::Directory(names) if names.is_empty() => continue,
                        _ => return Err(DiskError::LostFound.into()),
                    }
                }
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
            // `ln` does not make a directory larger.
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
        // Filling a directory changes its times, so theirs come last.
        let mut pending: Vec<(InodeId, Vec<u8>)> = vec![(ROOT, b"/".to_vec())];
        self.set_xattrs(b"/", tree.inode(ROOT))?;
        while let Some((directory, path)) = pending.pop() {
            self.set_fields(&path, tree.inode(directory))?;
            for (name, edge) in tree.names(directory) {
                let below = [path.strip_suffix(b"/").unwrap_or(&path), &b"/"[..], name].concat();
                let is_directory = matches!(tree.inode(edge.inode).kind, InodeKind::Directory(_));
                if is_directory && below != b"/lost+found" {
                    pending.push((edge.inode, below));
                }
            }
        }
        Ok(())
    }

    /// Makes a file of the current directory.
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
        // mknod takes only 16 bits of a minor number, so the number is put
        // into the inode: the new encoding (`new_encode_dev` of Linux).
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

    /// A new numbered file, and its name as debugfs is told.
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

    /// Adds a command: words, each in quotes, `"` doubled (`ss_parse` of e2fsprogs).
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

    /// Runs the commands so far and removes their files.
    fn flush(&mut self) -> Result<(), Mke2fsFailure> {
        let script = self.directory.path().join("script");
        std::fs::write(&script, &self.script).map_err(|e| StoreError::io("write", &script, e))?;
        let output = command(&self.tool.debugfs)
            .current_dir(self.directory.path())
            .args(["-w", "-f", "script"])
            .arg(self.image)
            .output()
            .map_err(|error| program_failed(&self.tool.debugfs, error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let complaint = said.lines().find(|line| !line.starts_with("debugfs 1."));
        if !output.status.success() || complaint.is_some() {
            let said = complaint.unwrap_or("it says nothing");
            return Err(failed(&self.tool.debugfs, said.as_bytes()));
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

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("E2FSPROGS_FAKE_TIME", FAKE_TIME)
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("LC_ALL", "C");
    command
}

fn program_failed(path: &Path, source: io::Error) -> Mke2fsFailure {
    let path = path.to_owned();
    Mke2fsError::Program { path, source }.into()
}

fn failed(path: &Path, said: &[u8]) -> Mke2fsFailure {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    Mke2fsError::Failed {
        path: path.to_owned(),
        said: lines.join("; ").chars().take(300).collect(),
    }
    .into()
}

fn bad_name(path: &[u8]) -> Mke2fsFailure {
    let path = display_name(path);
    Mke2fsError::Name { path }.into()
}

/// Copies the finished image into the store; what is zero stays a hole.
fn keep(store: &Store, image: &Path) -> Result<Output, Mke2fsFailure> {
    let read_failed = |error| StoreError::io("read", image, error);
    let file = File::open(image).map_err(read_failed)?;
    let size = file.metadata().map_err(read_failed)?.len();
    let scratch = store.scratch()?;
    let write_failed = |error| StoreError::io("write an image in", store.root(), error);
    scratch.file().set_len(size).map_err(write_failed)?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        let left = usize::try_from(size - offset).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let part = &mut buffer[..want];
        file.read_exact_at(part, offset).map_err(read_failed)?;
        if part.iter().any(|byte| *byte != 0) {
            scratch
                .file()
                .write_all_at(part, offset)
                .map_err(write_failed)?;
        }
        offset += want as u64;
    }
    Ok(scratch.commit_sparse()?.0)
}
