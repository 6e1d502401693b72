//! Makes an image with the host's e2fsprogs (`--mke2fs`): `mke2fs` creates an
//! empty file system, and `debugfs` from the same directory fills it.
//!
//! This needs no root privileges, and no path of the host is derived from a
//! name in the image: contents and attribute values are passed in numbered
//! files in the store's `tmp/`, one batch at a time, and names only in `debugfs`
//! commands. UUID, hash seed and times are fixed, so the same programs give the
//! same bytes.

mod fill;

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_cas::{Digest, Output, Store, StoreError};

use self::fill::Fill;
use super::error::{Mke2fsError, Mke2fsFailure};
use super::{Size, ext4};
use crate::tree::Tree;

/// The features of the built-in writer, regardless of the host's configuration.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// The time of everything without a time of its own; 0 would mean the current time.
const FAKE_TIME: &str = "1";
/// The two programs.
#[derive(Debug)]
pub(crate) struct Mke2fs {
    mke2fs: PathBuf,
    debugfs: PathBuf,
    digests: [Digest; 2],
}

impl Mke2fs {
    /// The `mke2fs` at `path`, and the `debugfs` in its directory.
    pub(crate) fn find(store: &Store, path: &Path) -> Result<Mke2fs, Mke2fsFailure> {
        let digest = |path: &Path| -> Result<Digest, Mke2fsFailure> {
            std::fs::metadata(path).map_err(|source| Mke2fsError::Program {
                path: path.to_owned(),
                source,
            })?;
            Ok(store.digest_known(path)?.0)
        };
        // In the directory of the file itself if `path` is a link.
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

    /// The programs as inputs of a node.
    pub(crate) fn inputs(&self) -> Vec<(String, Digest)> {
        let [mke2fs, debugfs] = self.digests;
        vec![("mke2fs".into(), mke2fs), ("debugfs".into(), debugfs)]
    }

    /// Makes the image and puts it into the store.
    pub(crate) fn build(
        &self,
        store: &Store,
        tree: &Tree,
        tars: &[File],
        seed: &Digest,
        size: Size,
    ) -> Result<Output, Mke2fsFailure> {
        // The built-in writer's layout gives the size and checks that the content fits.
        let (size, inodes) = ext4::measure(tree, seed, size)?;
        let directory = store.scratch_dir()?;
        let image = directory.path().join("image");
        self.format(&image, size, inodes, seed)?;
        let mut fill = Fill::new(&self.debugfs, tree, tars, &directory, &image);
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

fn failed(path: &Path, stderr: &[u8]) -> Mke2fsFailure {
    let stderr = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    Mke2fsError::Failed {
        path: path.to_owned(),
        output: lines.join("; ").chars().take(300).collect(),
    }
    .into()
}

/// Copies the finished image into the store; zeros become holes.
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
