//! Kept workspaces: `<state-dir>/workspaces/NAME/`.
//!
//! A workspace contains `rootfs.ext4`, the VM's own copy of the root file system with everything
//! written to it, and `run.json`, the document of the run. Without `--keep` there is no directory:
//! the root disk is an unlinked delta over the store's file.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;

use super::document::RunDocument;
use crate::disk_copy;
use crate::failure::Failure;
use crate::out_file::OutFile;
use crate::termination::Termination;

/// A workspace's directory. Dropping it removes the directory, unless [`Workspace::keep`] was called.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    termination: Termination,
    kept: bool,
}

impl Workspace {
    /// Creates the directory and the copy of `rootfs`.
    pub fn create(
        path: PathBuf,
        rootfs: &Path,
        termination: &Termination,
    ) -> Result<Workspace, Failure> {
        create_directory(&path)?;
        termination.remove_on_exit(&path);
        let workspace = Workspace {
            path,
            termination: termination.clone(),
            kept: false,
        };
        let disk = OutFile::create(&workspace.disk(), termination)?;
        disk_copy::copy(rootfs, disk)?;
        Ok(workspace)
    }

    /// Path of the root disk.
    pub fn disk(&self) -> PathBuf {
        self.path.join("rootfs.ext4")
    }

    /// Keeps the workspace, and writes the document of its run.
    pub fn keep(mut self, document: &RunDocument) -> Result<(), Failure> {
        self.kept = true;
        self.termination.keep(&self.path);
        let path = self.path.join("run.json");
        let text = serde_json::to_vec_pretty(document).map_err(io::Error::from);
        text.and_then(|text| std::fs::write(&path, text))
            .map_err(|error| cannot("write", &path, &error))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn create_directory(path: &Path) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        crate::settings::make_private_dir(parent)
            .map_err(|error| cannot("create", parent, &error))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::new(
            ErrorKind::Conflict,
            format!("workspace {} already exists", path.display()),
        )
        .remediation("use another --name, or remove the directory")),
        Err(error) => Err(cannot("create", path, &error)),
    }
}

fn cannot(action: &str, path: &Path, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        _ => ErrorKind::Host,
    };
    Failure::new(kind, format!("cannot {action} {}: {error}", path.display()))
}
