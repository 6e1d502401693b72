//! What is kept of a quarantined workspace: `quarantine/TIME/` in its directory, mode 0700, made while
//! nothing of the VM runs. It has copies of what the guest wrote to its root and its bundles, of the
//! logs, the history and the manifest, and `facts.json`. It appears when it is complete, and nothing
//! but `delete` removes it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use microagent_proto::control::VmStats;
use serde::{Deserialize, Serialize};

use crate::dir::{WorkspaceDir, is_disk_file};
use crate::event::now;
use crate::sparse;

/// How the name of an incomplete capture starts.
const INCOMPLETE: &str = ".incomplete-";

/// The file with the facts.
const FACTS: &str = "facts.json";

/// What is known about a quarantined VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// When it was captured, as RFC 3339 in UTC.
    pub captured_at: String,
    /// The version of microagent.
    pub version: String,
    /// The identity of the workspace.
    pub runtime_id: String,
    /// The identity of the start.
    pub request_id: String,
    /// The engine.
    pub engine: String,
    /// The release of the host's kernel.
    pub host_kernel: String,
    /// The time since the start, in milliseconds.
    pub uptime_millis: u64,
    /// What the VM has used of the host, if it is known.
    pub stats: Option<VmStats>,
    /// The process that keeps the workspace, and those that run its VM.
    pub processes: Vec<ProcessFacts>,
    /// The files beside this one.
    pub files: Vec<CapturedFile>,
}

/// What is known about a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFacts {
    /// The process.
    pub pid: u32,
    /// Its command line.
    pub command: Vec<String>,
    /// `/proc/PID/status` of the host.
    pub status: String,
}

/// A file of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CapturedFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes, with its holes.
    pub size: u64,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Its directory.
    pub path: PathBuf,
    /// When it was made.
    pub captured_at: String,
    /// Its files.
    pub files: Vec<CapturedFile>,
}

/// Captures the workspace in `directory`, whose VM does not run, until `stop` is set. Its list of
/// files is that of what was copied. Returns the directory of the capture.
///
/// # Errors
/// Those of the file system. Nothing is then left.
pub fn capture(directory: &WorkspaceDir, facts: Facts, stop: &AtomicBool) -> io::Result<PathBuf> {
    let all = directory.quarantine();
    let created = DirBuilder::new().mode(0o700).create(&all);
    created.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    sweep(directory);
    let incomplete = tempfile::Builder::new()
        .prefix(INCOMPLETE)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&all)?;
    let mut facts = Facts {
        captured_at: now(),
        files: Vec::new(),
        ..facts
    };
    for name in names(directory.path())? {
        let from = match File::open(directory.path().join(&name)) {
            Ok(from) => from,
            // A log that was renamed meanwhile is the next one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let to = sparse::create(&incomplete.path().join(&name))?;
        sparse::copy(&from, &to, stop)?;
        to.sync_all()?;
        let size = to.metadata()?.len();
        facts.files.push(CapturedFile { name, size });
    }
    let mut file = sparse::create(&incomplete.path().join(FACTS))?;
    file.write_all(&serde_json::to_vec_pretty(&facts)?)?;
    file.sync_all()?;
    // Without the characters that other programs give a meaning.
    let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let path = all.join(time.replace([':', '-'], ""));
    File::open(incomplete.path())?.sync_all()?;
    fs::rename(incomplete.path(), &path)?;
    // It has another name now.
    let _ = incomplete.keep();
    File::open(&all)?.sync_all()?;
    Ok(path)
}

/// The captures of a workspace, oldest first.
///
/// # Errors
/// Those of the file system, and facts that cannot be read.
pub fn captures(directory: &WorkspaceDir) -> io::Result<Vec<Capture>> {
    let entries = match fs::read_dir(directory.quarantine()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        let facts: Facts = serde_json::from_slice(&fs::read(path.join(FACTS))?)?;
        found.push(Capture {
            path,
            captured_at: facts.captured_at,
            files: facts.files,
        });
    }
    found.sort_unstable_by(|one, other| one.captured_at.cmp(&other.captured_at));
    Ok(found)
}

/// Removes what a process that was killed while it captured has left.
pub fn sweep(directory: &WorkspaceDir) {
    for entry in fs::read_dir(directory.quarantine())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(INCOMPLETE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The files of a workspace that are captured. What says which blocks a delta holds comes before the
/// delta: so whatever still reached the disk meanwhile, the copy has all blocks that it claims.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let is_record = [
            "spec.json",
            "event.json",
            "events.jsonl",
            "console.log",
            "output.log",
            "result.json",
        ]
        .contains(&name.trim_end_matches(".1"));
        if !name.starts_with('.')
            && (is_disk_file(&name) || is_record)
            && entry.file_type()?.is_file()
        {
            names.push(name);
        }
    }
    names.sort_unstable_by_key(|name| (name.ends_with(".delta"), name.clone()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_complete_private_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let directory = WorkspaceDir::at(parent.path().to_owned());
        assert_eq!(captures(&directory).unwrap(), []);
        for name in ["spec.json", "root.delta", "root.presence", "console.log.1"] {
            fs::write(parent.path().join(name), name).unwrap();
        }
        for name in ["lock", ".replace-x", "other"] {
            fs::write(parent.path().join(name), name).unwrap();
        }
        let leftover = parent.path().join("quarantine/.incomplete-x");
        fs::create_dir_all(&leftover).unwrap();
        let facts = || Facts {
            captured_at: String::new(),
            version: "1".into(),
            runtime_id: "r".into(),
            request_id: "q".into(),
            engine: "kvm".into(),
            host_kernel: "6".into(),
            uptime_millis: 1,
            stats: None,
            processes: Vec::new(),
            files: Vec::new(),
        };
        let path = capture(&directory, facts(), &AtomicBool::new(false)).unwrap();
        assert!(!leftover.exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("spec.json"))), (0o700, 0o600));
        let content = fs::read_to_string(path.join("root.delta")).unwrap();
        assert_eq!(content, "root.delta");
        let second = capture(&directory, facts(), &AtomicBool::new(false)).unwrap();
        let found = captures(&directory).unwrap();
        let paths: Vec<_> = found.iter().map(|capture| &capture.path).collect();
        assert_eq!(paths, [&path, &second]);
        let names: Vec<_> = found[0].files.iter().map(|file| &*file.name).collect();
        let expected = ["console.log.1", "root.presence", "spec.json", "root.delta"];
        assert_eq!(names, expected);
    }
}
