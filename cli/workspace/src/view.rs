//! The files of a workspace that does not run.

use std::path::Path;

use microagent_cas::Store;
use microagent_proto::control::DiskMode;

use crate::dir::WorkspaceDir;
use crate::root_fs::{Blocks, RootFs, RootFsError};
use crate::spec::Spec;
use crate::start::{ManifestError, digest, disks, recorded};

/// The files of a workspace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The manifest is damaged.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file system cannot be read.
    #[error(transparent)]
    RootFs(#[from] RootFsError),
}

/// The file system that the guest sees at a path.
#[derive(Debug)]
pub struct View {
    /// The file system.
    pub fs: RootFs,
    /// The path in it.
    pub path: Vec<u8>,
}

/// The root file system of a workspace, as the guest left it.
///
/// # Errors
/// [`ViewError`]. [`RootFsError::InUse`] if the workspace runs.
pub fn root(directory: &WorkspaceDir, spec: &Spec, store: &Store) -> Result<RootFs, ViewError> {
    Ok(at(directory, spec, store, b"/")?.fs)
}

/// The root file system of the image that a workspace was made from.
///
/// # Errors
/// As [`root`].
pub fn image(spec: &Spec, store: &Store) -> Result<RootFs, ViewError> {
    let base = store.sparse_path(&digest(&recorded(spec)?.rootfs)?);
    Ok(RootFs::open(Blocks::base(&base)?)?)
}

/// The file system of a workspace in which the guest's `path` is: that of its root, or of a disk
/// that is mounted there. A symbolic link in the root that leads to a disk does not lead into it.
///
/// # Errors
/// As [`root`].
pub fn at(
    directory: &WorkspaceDir,
    spec: &Spec,
    store: &Store,
    path: &[u8],
) -> Result<View, ViewError> {
    let disks = disks(directory, spec, recorded(spec)?, store)?;
    let names = names(path);
    let mut chosen = (0, 0);
    for (index, (_, mount)) in disks.iter().enumerate() {
        let Some(mount) = mount
            .as_ref()
            .and_then(|mount| self::names(mount.mount.as_bytes()))
        else {
            continue;
        };
        let below = names
            .as_ref()
            .is_some_and(|names| names.starts_with(&mount));
        if below && mount.len() >= chosen.0 {
            chosen = (mount.len(), index);
        }
    }
    let (depth, index) = chosen;
    let path = match names.as_ref().and_then(|names| names.get(depth..)) {
        Some(below) if depth > 0 => {
            let slash: &[u8] = if path.ends_with(b"/") { b"/" } else { b"" };
            [b"/", &below.join(&b'/')[..], slash].concat()
        }
        _ => path.to_vec(),
    };
    let (config, _) = disks.get(index).ok_or(ManifestError::Missing("rootfs"))?;
    let fs = RootFs::open(open(&config.path, &config.mode)?)?;
    Ok(View { fs, path })
}

/// The names of a path; `None` if only the file system can say what it means.
fn names(path: &[u8]) -> Option<Vec<&[u8]>> {
    let names = path.split(|&byte| byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    (!names.contains(&&b".."[..])).then_some(names)
}

fn open(path: &Path, mode: &DiskMode) -> Result<Blocks, RootFsError> {
    match mode {
        DiskMode::Delta { delta, presence } => Blocks::with_delta(path, delta, presence),
        DiskMode::ReadOnly | DiskMode::ReadWrite | DiskMode::Overlay { .. } => Blocks::base(path),
    }
}
