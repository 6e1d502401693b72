//! What was saved of a running workspace, in a directory of its own: `snapshots/NAME/TAG/` of the state
//! directory. It belongs to no workspace, and nothing changes it.
//!
//! | file | content |
//! |---|---|
//! | `spec.json` | the manifest, with an identity of its own; a root of the store holds what it names |
//! | `vm` | memory and state of the VM |
//! | `vm.json` | what the VM depends on: [`Facts`] |
//! | `*.delta`, `*.presence` | what the guest had written |
//! | `pages` | which pages of memory are used soon; a hint that the first start writes |
//!
//! A workspace goes on from it with its disks as they were: with others, the guest's memory would not
//! match them.
//!
//! A suspended workspace has the same files in its own directory ([`suspended`]). They are used once: when
//! its guest runs again, they are removed.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use microagent_proto::control::SavedVm;
use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::dir::{WorkspaceDir, is_disk_file};
use crate::log::{REPLACEMENT, replace};
use crate::sparse;
use crate::spec::Recorded;

/// The file with memory and state.
const VM: &str = "vm";

/// The file with the facts.
const FACTS: &str = "vm.json";

/// The file with the pages.
const PAGES: &str = "pages";

/// The file of a workspace whose disks are being replaced: until that is done, they do not belong
/// together.
const REPLACING: &str = "replacing-disks";

/// What a saved VM depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// When it was saved, as RFC 3339 in UTC.
    pub saved_at: String,
    /// The digest of everything that must be the same where it goes on: monitor, kernel, initramfs,
    /// devices, processor and kernel of the host.
    pub key: String,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its number of CPUs.
    pub cpu_count: u32,
    /// What it has booted.
    pub boot: Boot,
    /// Whether its workload runs.
    pub workload: bool,
    /// The files that were saved.
    #[serde(default)]
    pub files: Vec<SavedFile>,
}

/// A file that was saved. Every write to it changes what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was modified last: seconds and nanoseconds.
    pub modified: (i64, i64),
}

impl SavedFile {
    fn of(directory: &Path, name: &str) -> io::Result<SavedFile> {
        let metadata = fs::metadata(directory.join(name))?;
        Ok(SavedFile {
            name: name.to_owned(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A directory with a saved workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved(PathBuf);

impl Saved {
    /// The directory `path`.
    pub fn at(path: PathBuf) -> Saved {
        Saved(path)
    }

    /// What is saved of a suspended workspace, in its own directory.
    pub fn of(directory: &WorkspaceDir) -> Saved {
        Saved(directory.path().to_owned())
    }

    /// Its facts.
    ///
    /// # Errors
    /// Those of the file system, and facts that cannot be read.
    pub fn facts(&self) -> io::Result<Facts> {
        Ok(serde_json::from_slice(&fs::read(self.0.join(FACTS))?)?)
    }

    /// The VM, for its monitor.
    pub fn vm(&self) -> SavedVm {
        SavedVm {
            file: self.0.join(VM),
            pages: self.0.join(PAGES),
            in_use: true,
        }
    }

    /// Creates the file for memory and state.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create_vm(&self) -> io::Result<File> {
        sparse::create(&self.0.join(VM))
    }

    /// Makes everything durable, and writes the facts, in which the files are filled in.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn complete(&self, mut facts: Facts) -> io::Result<()> {
        facts.files = Vec::new();
        for name in disks(&self.0)?.iter().map(String::as_str).chain([VM]) {
            let file = File::open(self.0.join(name))?;
            file.sync_all()?;
            facts.files.push(SavedFile::of(&self.0, name)?);
        }
        replace(&self.0.join(FACTS), &serde_json::to_vec_pretty(&facts)?)
    }

    /// Keeps everything but the pages from being written to by mistake.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn seal(&self) -> io::Result<()> {
        for name in disks(&self.0)?.iter().map(String::as_str).chain([VM]) {
            let file = self.0.join(name);
            fs::set_permissions(file, Permissions::from_mode(0o400))?;
        }
        Ok(())
    }

    /// Removes memory and state of the VM, and leaves the disks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn discard_vm(&self) -> io::Result<()> {
        // First that without which the others are nothing.
        for name in [FACTS, VM, PAGES] {
            match fs::remove_file(self.0.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the files are as they were saved, as far as the file system can tell.
    pub fn is_unchanged(&self, facts: &Facts) -> bool {
        let mut files = facts.files.iter();
        files.all(|file| SavedFile::of(&self.0, &file.name).is_ok_and(|now| now == *file))
    }

    /// Copies what the guest of the workspace in `directory` has written. Its VM must not run.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn copy_disks(&self, directory: &WorkspaceDir) -> io::Result<()> {
        for name in disks(directory.path())? {
            copy(&directory.path().join(&name), &self.0.join(&name))?;
        }
        Ok(())
    }

    /// The files with what the guest had written.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn disks(&self) -> io::Result<Vec<PathBuf>> {
        let names = disks(&self.0)?.into_iter();
        Ok(names.map(|name| self.0.join(name)).collect())
    }

    /// What it takes on the disk, in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(&self.0)? {
            bytes += entry?.metadata()?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// Gives the workspace in `directory`, which does not run and is locked, the disks that were saved
    /// instead of its own. If this is interrupted, it can only be repeated: see [`are_whole`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn replace_disks(&self, directory: &WorkspaceDir) -> io::Result<()> {
        let to = directory.path();
        directory.remove_leftovers();
        let names = disks(&self.0)?;
        for name in &names {
            let incoming = to.join(format!("{REPLACEMENT}{name}"));
            copy(&self.0.join(name), &incoming)?;
            File::open(incoming)?.sync_all()?;
        }
        // Not before: there may be no room for the copies.
        Saved::of(directory).discard_vm()?;
        let marker = to.join(REPLACING);
        replace(&marker, b"")?;
        for name in &names {
            fs::rename(to.join(format!("{REPLACEMENT}{name}")), to.join(name))?;
        }
        for name in disks(to)?.iter().filter(|name| !names.contains(name)) {
            fs::remove_file(to.join(name))?;
        }
        File::open(to)?.sync_all()?;
        fs::remove_file(marker)
    }
}

/// What was saved of a suspended workspace, in its own directory; `None` if its guest has run since, or if
/// nothing can be read there.
pub fn suspended(directory: &WorkspaceDir) -> Option<Facts> {
    let saved = Saved::of(directory);
    let facts = saved.facts().ok()?;
    saved.is_unchanged(&facts).then_some(facts)
}

/// Whether the disks of a workspace belong together: a process that was killed while it replaced them
/// may have left some of each.
pub fn are_whole(directory: &WorkspaceDir) -> bool {
    !directory.path().join(REPLACING).exists()
}

/// Whether two workspaces consist of the same objects, so that one can go on with the memory of the other.
pub fn have_the_same_disks(one: &Recorded, other: &Recorded) -> bool {
    one.rootfs == other.rootfs && one.bundles == other.bundles
}

/// The names of the files with what a guest has written, sorted.
fn disks(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if is_disk_file(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    sparse::copy(
        &File::open(from)?,
        &sparse::create(to)?,
        &AtomicBool::new(false),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RecordedKernel;

    fn facts() -> Facts {
        Facts {
            saved_at: "2026-01-01T00:00:00Z".into(),
            key: "k".into(),
            memory_mib: 256,
            cpu_count: 2,
            boot: Boot {
                kernel: RecordedKernel {
                    digest: "sha256:1".into(),
                    modules_disk: None,
                },
                initramfs: "sha256:2".into(),
            },
            workload: true,
            files: Vec::new(),
        }
    }

    fn write(directory: &Path, names: &[&str], text: &str) {
        for name in names {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    fn texts(directory: &Path) -> Vec<(String, String)> {
        let names = disks(directory).unwrap().into_iter();
        names
            .map(|name| {
                let text = fs::read_to_string(directory.join(&name)).unwrap();
                (name, text)
            })
            .collect()
    }

    #[test]
    fn a_workspace_gets_the_disks_that_were_saved_and_no_others() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let to = tempfile::tempdir().unwrap();
        let source = WorkspaceDir::at(one.path().to_owned());
        write(
            one.path(),
            &["root.delta", "root.presence", "spec.json"],
            "old",
        );
        let saved = Saved::at(to.path().to_owned());
        saved.create_vm().unwrap();
        saved.copy_disks(&source).unwrap();
        saved.complete(facts()).unwrap();
        let complete = saved.facts().unwrap();
        let names: Vec<_> = complete.files.iter().map(|file| &file.name[..]).collect();
        assert_eq!(names, ["root.delta", "root.presence", "vm"]);
        let without_files = Facts {
            files: Vec::new(),
            ..complete.clone()
        };
        assert_eq!(without_files, facts());
        assert!(saved.is_unchanged(&complete));
        let old = ["root.delta", "root.presence"].map(|name| (name.to_owned(), "old".to_owned()));
        assert_eq!(texts(to.path()), old);
        assert!(!to.path().join("spec.json").exists());

        write(
            other.path(),
            &["root.delta", "bundle-x.delta", ".replace-root.delta"],
            "new",
        );
        let directory = WorkspaceDir::at(other.path().to_owned());
        saved.replace_disks(&directory).unwrap();
        assert!(are_whole(&directory));
        assert_eq!(texts(other.path()), old);
        assert!(!other.path().join(".replace-root.delta").exists());
        // The copies are not the same files.
        write(other.path(), &["root.delta"], "newer");
        assert_eq!(texts(to.path()), old);
        let vm = to.path().join("vm");
        fs::set_permissions(&vm, Permissions::from_mode(0o600)).unwrap();
        assert!(saved.is_unchanged(&complete));
        fs::write(&vm, "x").unwrap();
        assert!(!saved.is_unchanged(&complete));
    }

    #[test]
    fn a_replacement_that_was_interrupted_is_noticed_and_can_be_repeated() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(from.path(), &["root.delta", "root.presence"], "old");
        write(to.path(), &["root.delta", REPLACING], "new");
        let directory = WorkspaceDir::at(to.path().to_owned());
        assert!(!are_whole(&directory));
        let saved = Saved::at(from.path().to_owned());
        saved.replace_disks(&directory).unwrap();
        assert!(are_whole(&directory));
        assert_eq!(texts(to.path()), texts(from.path()));
    }
}
