//! Finds files, mounts and processes that a run left behind.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// Exceptions, which are meant to stay: the result of the engine check, the record that the notice
/// about it was printed, and the parent of the run directories.
const KEPT: [&str; 3] = [
    "state/run/engine.json",
    "state/run/qemu-notice",
    "run/microagent",
];

/// Lists files left below `root`, and mounts and processes that refer to it.
pub(crate) fn of(root: &Path, grace: Duration) -> Vec<String> {
    let mut left = processes(root, grace);
    if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
        let here = root.to_string_lossy();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&*here))
                .map(|line| format!("mount {line}")),
        );
    }
    for directory in [
        "tmp",
        "run",
        "state/cas/tmp",
        "state/workspaces",
        "state/run",
    ] {
        left.extend(
            entries_below(&root.join(directory))
                .into_iter()
                .filter(|path| !KEPT.iter().any(|kept| *path == root.join(kept)))
                .map(|path| format!("file {}", path.display())),
        );
    }
    left
}

/// Waits until no process refers to `root`, at most for `grace`, and lists those that remain.
pub(crate) fn processes(root: &Path, grace: Duration) -> Vec<String> {
    let end = Instant::now() + grace;
    loop {
        let found = processes_mentioning(root);
        let left = end.saturating_duration_since(Instant::now());
        let Some((pid, _)) = found.first() else {
            return Vec::new();
        };
        if left.is_zero() {
            return found
                .into_iter()
                .map(|(pid, command)| format!("process {} {command}", pid.as_raw_pid()))
                .collect();
        }
        wait_for_process(*pid, left);
    }
}

/// All entries below a directory, recursively.
fn entries_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(entries_below(&path));
        }
        found.push(path);
    }
    found
}

/// Other processes whose arguments, environment or working directory contain this path.
fn processes_mentioning(path: &Path) -> Vec<(Pid, String)> {
    let needle = path.as_os_str().as_bytes();
    let mentions = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        if pid == rustix::process::getpid() {
            continue;
        }
        let directory = entry.path();
        let arguments = fs::read(directory.join("cmdline")).unwrap_or_default();
        let environment = fs::read(directory.join("environ")).unwrap_or_default();
        let working = fs::read_link(directory.join("cwd")).unwrap_or_default();
        if mentions(&arguments) || mentions(&environment) || working.starts_with(path) {
            let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
            found.push((pid, command));
        }
    }
    found
}

/// Waits for a process to exit, which need not be a child of this one.
pub(crate) fn wait_for_process(pid: Pid, limit: Duration) {
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let limit = rustix::time::Timespec::try_from(limit).ok();
    let mut ready = [rustix::event::PollFd::new(
        &process,
        rustix::event::PollFlags::IN,
    )];
    let _ = rustix::event::poll(&mut ready, limit.as_ref());
}
