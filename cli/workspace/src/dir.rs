//! The directory of a workspace, `<state-dir>/workspaces/<name>/`, mode 0700.
//!
//! | file | content |
//! |---|---|
//! | `spec.json` | the specification with what `create` resolved, replaced by rename |
//! | `root.delta`, `root.presence` | what the guest wrote; the base stays in the store |
//! | `event.json`, `events.jsonl` | the last event; a bounded history |
//! | `output.log` | the end of what the workload wrote, a [log](crate::log) as the next one |
//! | `console.log` | the end of the guest's console, and the supervisor's messages |
//! | `result.json` | how the workload ended |
//! | `quarantine/` | what was captured of it, each time that it was quarantined |
//! | `lock` | held while a supervisor lives; says where it listens |
//!
//! A workspace is made under a name that starts with a dot and gets its own name by rename, when it
//! is complete; before it is deleted, it gets such a name again. So a name exists entirely or not at
//! all, and what a killed `create` or `delete` leaves is recognised: its lock is not held. Until then
//! its name is reserved by the lock of a file beside it, because a `run` that is kept may take hours.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::lock::{Lock, is_held};
use crate::log::{REPLACEMENT, replace};
use crate::spec::{Spec, SpecError};

/// The file of the specification.
const SPEC: &str = "spec.json";
/// The file of the lock.
const LOCK: &str = "lock";
/// How the names of incomplete workspaces start.
const INCOMPLETE: &str = ".create-";
/// How the names of the files start whose locks hold the names that these are to have.
const RESERVED: &str = ".name-";

/// Why a workspace's directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirError {
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What failed, as a verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no workspace of this name.
    #[error("there is no workspace {0:?}")]
    Absent(String),
    /// A workspace of this name exists.
    #[error("workspace {0:?} already exists")]
    Exists(String),
    /// Another process is making a workspace of this name.
    #[error("another command is making workspace {0:?}")]
    Reserved(String),
    /// The manifest cannot be read.
    #[error("{}:{source}", path.display())]
    Spec {
        /// The manifest.
        path: PathBuf,
        /// The mistake.
        #[source]
        source: SpecError,
    },
}

fn failed(action: &'static str, path: &Path, source: impl Into<io::Error>) -> DirError {
    DirError::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The directory with what was saved of workspaces.
const SNAPSHOTS: &str = "snapshots";

/// The maximum length of a name.
const MAX_NAME: usize = 63;

/// Whether `name` may be the name of a workspace: 1 to 63 lowercase letters, digits and hyphens, not
/// starting with a hyphen. So it never leads out of its directory.
pub fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
}

/// Whether a file of a workspace has this name that holds what its guest wrote, or says where.
pub fn is_disk_file(name: &str) -> bool {
    (name.ends_with(".delta") || name.ends_with(".presence")) && !name.starts_with('.')
}

/// All workspaces of a state directory.
#[derive(Debug, Clone)]
pub struct Workspaces(PathBuf);

impl Workspaces {
    /// Those of `state_dir`.
    pub fn of(state_dir: &Path) -> Workspaces {
        Workspaces(state_dir.join("workspaces"))
    }

    /// What was [saved](crate::saved) of the workspace `name`: directories of the same form, named by their
    /// tags. `name` [is one](is_name).
    pub fn snapshots(state_dir: &Path, name: &str) -> Workspaces {
        Workspaces(state_dir.join(SNAPSHOTS).join(name))
    }

    /// The names of workspaces of which something was saved, sorted.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn with_snapshots(state_dir: &Path) -> Result<Vec<String>, DirError> {
        let path = state_dir.join(SNAPSHOTS);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &path, error)),
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_name(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Removes the directory if nothing is in it.
    pub fn remove_if_empty(&self) {
        let _ = fs::remove_dir(&self.0);
    }

    /// The workspace `name`.
    ///
    /// # Errors
    /// [`DirError::Absent`].
    pub fn get(&self, name: &str) -> Result<WorkspaceDir, DirError> {
        let found = self.find(name)?;
        match found.0.join(SPEC).is_file() {
            true => Ok(found),
            false => Err(DirError::Absent(name.to_owned())),
        }
    }

    /// The directory of this name, also if it is not that of a complete workspace.
    ///
    /// # Errors
    /// [`DirError::Absent`].
    pub fn find(&self, name: &str) -> Result<WorkspaceDir, DirError> {
        let path = self.0.join(name);
        match is_name(name) && path.is_dir() {
            true => Ok(WorkspaceDir(path)),
            false => Err(DirError::Absent(name.to_owned())),
        }
    }

    /// The names of all workspaces, sorted.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn names(&self) -> Result<Vec<String>, DirError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &self.0, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("read", &self.0, error))?;
            // Names are ASCII.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_name(&name) && entry.path().join(SPEC).is_file() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Begins a workspace. Removes what killed processes left of others, and calls `release` for the
    /// specification of each before.
    ///
    /// # Errors
    /// [`DirError::Exists`] and [`DirError::Reserved`] if the name is taken, [`DirError::Absent`] if it
    /// is not a name, and those of the file system.
    pub fn begin(&self, name: &str, release: impl Fn(&Spec)) -> Result<NewWorkspace, DirError> {
        if !is_name(name) {
            return Err(DirError::Absent(name.to_owned()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| failed("create", &self.0, error))?;
        let reservation = Reservation::new(&self.0, name)?;
        if self.0.join(name).exists() {
            return Err(DirError::Exists(name.to_owned()));
        }
        self.sweep(release);
        let (path, lock) = hidden(&self.0)?;
        Ok(NewWorkspace {
            directory: WorkspaceDir(path),
            name: name.to_owned(),
            _lock: lock,
            kept: false,
            reservation,
        })
    }

    /// Removes what killed processes left of workspaces that were not complete or were being deleted.
    /// Calls `release` for the specification of each before.
    pub fn sweep(&self, release: impl Fn(&Spec)) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // One that is locked now is seen to be gone by who locks it, and made again.
            if name.starts_with(RESERVED) && is_held(&entry.path()).is_ok_and(|held| !held) {
                let _ = fs::remove_file(entry.path());
            }
            let left = name.starts_with(INCOMPLETE);
            if left && let Ok(Some(_lock)) = Lock::acquire(&entry.path().join(LOCK)) {
                if let Ok(spec) = WorkspaceDir(entry.path()).known_spec() {
                    release(&spec);
                }
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The name of a workspace that is being made. Dropping it frees the name.
#[derive(Debug)]
struct Reservation {
    path: PathBuf,
    _lock: Lock,
}

impl Reservation {
    fn new(parent: &Path, name: &str) -> Result<Reservation, DirError> {
        let path = parent.join(format!("{RESERVED}{name}"));
        loop {
            match Lock::acquire(&path) {
                Ok(Some(lock)) => return Ok(Reservation { path, _lock: lock }),
                Ok(None) => return Err(DirError::Reserved(name.to_owned())),
                // Its former holder has removed it before it was locked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("lock", &path, error)),
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Before the lock is released: whoever gets it sees that its file is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// Creates a directory that is not a workspace, and locks it.
fn hidden(parent: &Path) -> Result<(PathBuf, Lock), DirError> {
    loop {
        let path = tempfile::Builder::new()
            .prefix(INCOMPLETE)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(|error| failed("create a directory in", parent, error))?
            .keep();
        match Lock::acquire(&path.join(LOCK)) {
            Ok(Some(lock)) => return Ok((path, lock)),
            // Another process has swept it before it was locked.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let _ = fs::remove_dir_all(&path);
                return Err(failed("lock", &path, error));
            }
        }
    }
}

/// The directory of one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceDir(PathBuf);

impl WorkspaceDir {
    /// The directory `path` of a workspace that exists.
    pub fn at(path: PathBuf) -> WorkspaceDir {
        WorkspaceDir(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of the lock.
    pub fn lock(&self) -> PathBuf {
        self.0.join(LOCK)
    }

    /// The file with what the guest wrote.
    pub fn delta(&self) -> PathBuf {
        self.0.join("root.delta")
    }

    /// The file that says which blocks the delta holds.
    pub fn presence(&self) -> PathBuf {
        self.0.join("root.presence")
    }

    /// The end of the guest's console.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The end of what the workload wrote.
    pub fn output(&self) -> PathBuf {
        self.0.join("output.log")
    }

    /// How the workload ended.
    pub fn result(&self) -> PathBuf {
        self.0.join("result.json")
    }

    /// The directory of what was [captured](crate::quarantine) of it.
    pub fn quarantine(&self) -> PathBuf {
        self.0.join("quarantine")
    }

    /// Reads the specification, to start or to change the workspace.
    ///
    /// # Errors
    /// [`DirError::Spec`], also if it has a field of a newer release, and those of the file system.
    pub fn spec(&self) -> Result<Spec, DirError> {
        self.read_spec(Spec::from_json)
    }

    /// Reads what this release knows of the specification, for a workspace that is used or ended as
    /// another release has started it.
    ///
    /// # Errors
    /// [`DirError::Spec`], and those of the file system.
    pub fn known_spec(&self) -> Result<Spec, DirError> {
        self.read_spec(Spec::from_manifest)
    }

    fn read_spec(&self, parse: fn(&str) -> Result<Spec, SpecError>) -> Result<Spec, DirError> {
        let path = self.0.join(SPEC);
        let text = fs::read_to_string(&path).map_err(|error| failed("read", &path, error))?;
        parse(&text).map_err(|source| DirError::Spec { path, source })
    }

    /// Replaces the specification.
    ///
    /// # Errors
    /// Those of the file system; the former one is then unchanged.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), DirError> {
        let path = self.0.join(SPEC);
        replace(&path, spec.to_json().as_bytes()).map_err(|error| failed("write", &path, error))
    }

    /// Takes the workspace out of sight, so that nobody sees half of it: its name is free, and what is
    /// not removed afterwards is by the next [`Workspaces::sweep`]. The caller holds its lock. Needs no
    /// space on the disk.
    ///
    /// # Errors
    /// Those of the file system; the workspace is then unchanged.
    pub fn hide(self) -> Result<HiddenWorkspace, DirError> {
        let parent = self.0.parent().unwrap_or(Path::new("."));
        tempfile::Builder::new()
            .prefix(INCOMPLETE)
            .make_in(parent, |path| {
                Ok(renameat_with(
                    CWD,
                    &self.0,
                    CWD,
                    path,
                    RenameFlags::NOREPLACE,
                )?)
            })
            .and_then(|made| Ok(made.into_temp_path().keep()?))
            .map(HiddenWorkspace)
            .map_err(|error| failed("remove", &self.0, error))
    }

    /// Removes what a process that was killed while it replaced a file has left.
    pub fn remove_leftovers(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(REPLACEMENT) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// A workspace that nobody sees any more.
#[derive(Debug)]
pub struct HiddenWorkspace(PathBuf);

impl HiddenWorkspace {
    /// Removes the directory and all that it contains.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(self) -> Result<(), DirError> {
        fs::remove_dir_all(&self.0).map_err(|error| failed("remove", &self.0, error))
    }
}

/// A workspace that is not complete. Dropping it removes it.
#[derive(Debug)]
pub struct NewWorkspace {
    directory: WorkspaceDir,
    name: String,
    _lock: Lock,
    kept: bool,
    reservation: Reservation,
}

impl NewWorkspace {
    /// Its directory for the time being.
    pub fn directory(&self) -> &WorkspaceDir {
        &self.directory
    }

    /// What a process that is terminated before it is complete removes.
    pub fn leftovers(&self) -> [&Path; 2] {
        [&self.directory.0, &self.reservation.path]
    }

    /// Gives it its name; returns its directory.
    ///
    /// # Errors
    /// [`DirError::Exists`] if the name was taken meanwhile, and those of the file system.
    pub fn complete(mut self) -> Result<WorkspaceDir, DirError> {
        let path = self.directory.0.with_file_name(&self.name);
        match renameat_with(CWD, &self.directory.0, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(DirError::Exists(self.name.clone())),
            Err(error) => return Err(failed("create", &path, error)),
        }
        self.kept = true;
        // It exists; if its name cannot be made durable now, a crash may take it back.
        let parent = path.parent().unwrap_or(Path::new("."));
        let _ = fs::File::open(parent).and_then(|parent| parent.sync_all());
        Ok(WorkspaceDir(path))
    }
}

impl Drop for NewWorkspace {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.directory.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(workspaces: &Workspaces) -> Vec<String> {
        let entries = fs::read_dir(&workspaces.0).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    fn create(workspaces: &Workspaces, name: &str) -> Result<WorkspaceDir, DirError> {
        let new = workspaces.begin(name, |_| {})?;
        let spec = Spec {
            name: Some(name.into()),
            ..Spec::default()
        };
        new.directory().write_spec(&spec)?;
        new.complete()
    }

    #[test]
    fn a_workspace_appears_when_it_is_complete_and_disappears_whole() {
        let directory = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::of(directory.path());
        assert_eq!(workspaces.names().unwrap(), Vec::<String>::new());
        let new = workspaces.begin("b", |_| {}).unwrap();
        new.directory().write_spec(&Spec::default()).unwrap();
        assert_eq!(workspaces.names().unwrap(), Vec::<String>::new());
        assert!(matches!(workspaces.get("b"), Err(DirError::Absent(_))));
        let b = new.complete().unwrap();
        assert!(!is_held(&b.lock()).unwrap());
        create(&workspaces, "a").unwrap();
        assert_eq!(workspaces.names().unwrap(), ["a", "b"]);
        assert_eq!(
            workspaces.get("a").unwrap().spec().unwrap().name.as_deref(),
            Some("a")
        );
        b.hide().unwrap().remove().unwrap();
        assert_eq!(names(&workspaces), ["a"]);
    }

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::of(directory.path());
        create(&workspaces, "a").unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join(SPEC), "{}").unwrap();
        for name in [
            "../outside",
            outside.to_str().unwrap(),
            ".",
            "..",
            "",
            "a/",
            "A",
        ] {
            for found in [workspaces.get(name), workspaces.find(name)] {
                assert!(matches!(found, Err(DirError::Absent(_))), "{name}");
            }
            assert!(workspaces.begin(name, |_| {}).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let directory = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::of(directory.path());
        let first = workspaces.begin("a", |_| {}).unwrap();
        let error = workspaces.begin("a", |_| {}).unwrap_err();
        let message = "another command is making workspace \"a\"";
        assert_eq!(error.to_string(), message);
        // Others are not in its way.
        create(&workspaces, "b").unwrap();
        first.complete().unwrap();
        let error = workspaces.begin("a", |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "workspace \"a\" already exists");
        drop(workspaces.begin("c", |_| {}).unwrap());
        create(&workspaces, "c").unwrap();
        assert_eq!(names(&workspaces), ["a", "b", "c"]);
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_the_rest_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::of(directory.path());
        // Each `begin` sweeps, so what is left is made after the last one.
        let deleted = create(&workspaces, "deleted").unwrap();
        let living = workspaces.begin("living", |_| {}).unwrap();
        // Its drop does not run, and its lock is released.
        let mut killed = workspaces.begin("killed", |_| {}).unwrap();
        let spec = Spec {
            name: Some("killed".into()),
            ..Spec::default()
        };
        killed.directory().write_spec(&spec).unwrap();
        killed.kept = true;
        drop(killed);
        // As a `delete` that is killed leaves it.
        deleted.hide().unwrap();
        fs::write(workspaces.0.join(".name-killed"), "").unwrap();
        assert_eq!(names(&workspaces).len(), 5);
        let released = std::cell::RefCell::new(Vec::new());
        let release = |spec: &Spec| released.borrow_mut().extend(spec.name.clone());
        let a = workspaces.begin("a", release).unwrap();
        released.borrow_mut().sort_unstable();
        assert_eq!(*released.borrow(), ["deleted", "killed"]);
        a.directory().write_spec(&Spec::default()).unwrap();
        a.complete().unwrap();
        assert_eq!(names(&workspaces).len(), 3);
        assert!(living.directory().path().is_dir());
        drop(living);
        assert_eq!(names(&workspaces), ["a"]);
    }
}
