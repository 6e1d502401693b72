//! Kept workspaces: `<state-dir>/workspaces/NAME/`.
//!
//! A workspace contains `rootfs.ext4`, the VM's own copy of the root file system with everything
//! written to it, and `run.json`, the document of the run. Without `--keep` there is no directory:
//! the root disk is an unlinked delta over the store's file.
//!
//! While the run lasts, the directory also has a file `lock`, which this process holds locked
//! (flock(2)). The run removes it when it keeps the workspace. So a directory with a free `lock` is
//! the leftover of a killed run: its name is free, and the next run with `--keep` removes it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::document::RunDocument;
use crate::disk_copy;
use crate::failure::{Failure, kind_of};
use crate::out_file::OutFile;
use crate::termination::Termination;

/// The file that marks a workspace as not yet kept.
pub const LOCK: &str = "run.lock";

/// A workspace's directory. Dropping it removes the directory, unless [`Workspace::keep`] was
/// called.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    termination: Termination,
    kept: bool,
    _lock: File,
}

impl Workspace {
    /// Creates the directory and the copy of `rootfs`.
    pub fn create(
        path: PathBuf,
        rootfs: &Path,
        termination: &Termination,
    ) -> Result<Workspace, Failure> {
        let lock = create_directory(&path)?;
        termination.remove_on_exit(&path);
        let workspace = Workspace {
            path,
            termination: termination.clone(),
            kept: false,
            _lock: lock,
        };
        let disk = OutFile::create(&workspace.disk(), termination)?;
        disk_copy::copy(rootfs, disk)?;
        Ok(workspace)
    }

    /// Path of the root disk.
    pub fn disk(&self) -> PathBuf {
        self.path.join("rootfs.ext4")
    }

    /// Keeps the workspace, and writes the document of its run. Without space for the document the
    /// workspace is kept nevertheless: its disk has what the command wrote.
    pub fn keep(mut self, document: &RunDocument) -> Result<(), Failure> {
        self.kept = true;
        self.termination.keep(&self.path);
        let path = self.path.join("run.json");
        let written = write(&path, document, &self.termination);
        let lock = self.path.join(LOCK);
        fs::remove_file(&lock).map_err(|error| cannot("remove", &lock, &error))?;
        written
    }
}

fn write(path: &Path, document: &RunDocument, termination: &Termination) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(document)
        .map_err(|error| Failure::caused(ErrorKind::Internal, &error))?;
    let file = OutFile::create(path, termination)?;
    let written = file.file().write_all(&text);
    written.map_err(|error| file.error(error))?;
    Ok(file.commit()?)
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Creates the directory of a workspace and holds its lock. Removes the leftovers of killed runs.
fn create_directory(path: &Path) -> Result<File, Failure> {
    if let Some(parent) = path.parent() {
        crate::settings::make_private_dir(parent)
            .map_err(|error| cannot("create", parent, &error))?;
        sweep(parent);
    }
    loop {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // An empty one was left by a run that was killed before it made the lock.
                if fs::remove_dir(path).is_ok() {
                    continue;
                }
                return Err(Failure::new(
                    ErrorKind::Conflict,
                    format!("workspace {} already exists", path.display()),
                )
                .remediation("use another --name, or remove the directory"));
            }
            Err(error) => return Err(cannot("create", path, &error)),
        }
        let lock = path.join(LOCK);
        let file = match File::create(&lock) {
            Ok(file) => file,
            // Another run has swept the directory meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot("create", &lock, &error)),
        };
        // A file system without locks has no other run's lock either.
        if try_lock(&file) != Err(Errno::WOULDBLOCK) && is_current(&file, &lock) {
            return Ok(file);
        }
    }
}

/// Removes the workspaces of killed runs.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let directory = entry.path();
        let lock = directory.join(LOCK);
        // For writing: over NFS, an exclusive lock needs it.
        let Ok(file) = File::options().write(true).open(&lock) else {
            continue;
        };
        if try_lock(&file).is_ok() && is_current(&file, &lock) {
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// Takes the lock of a file, unless another process holds it.
fn try_lock(file: &File) -> Result<(), Errno> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn is_current(file: &File, path: &Path) -> bool {
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let held = file.metadata().map(inode).ok();
    held.is_some() && held == fs::metadata(path).map(inode).ok()
}

fn cannot(action: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot {action} {}: {error}", path.display());
    Failure::new(kind_of(error), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path) -> Result<Workspace, Failure> {
        Workspace::create(
            path.to_owned(),
            Path::new("/dev/null"),
            &Termination::for_test(),
        )
    }

    #[test]
    fn the_name_of_a_killed_run_is_free_and_its_leftovers_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workspaces/name");
        for left in ["name", "other"] {
            let dead = directory.path().join("workspaces").join(left);
            fs::create_dir_all(&dead).unwrap();
            fs::write(dead.join(LOCK), "").unwrap();
            fs::write(dead.join("rootfs.ext4"), "old").unwrap();
        }
        let workspace = create(&path).unwrap();
        assert_eq!(fs::read(workspace.disk()).unwrap(), b"");
        assert!(!directory.path().join("workspaces/other").exists());
        // A running one is in use, and its directory is not swept.
        let conflict = create(&path).unwrap_err();
        assert_eq!(conflict.kind, ErrorKind::Conflict);
        drop(create(&directory.path().join("workspaces/third")).unwrap());
        assert!(path.exists());
        drop(workspace);
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        drop(create(&path).unwrap());
    }

    #[test]
    fn a_directory_without_a_lock_is_never_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workspaces/name");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("data"), "of the user").unwrap();
        assert_eq!(create(&path).unwrap_err().kind, ErrorKind::Conflict);
        drop(create(&directory.path().join("workspaces/other")).unwrap());
        assert_eq!(fs::read(path.join("data")).unwrap(), b"of the user");
    }
}
