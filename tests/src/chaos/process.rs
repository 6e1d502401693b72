//! The processes of workspaces, found in `/proc`: what is true about them, whatever the product says.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, getpid, getppid};

/// The argument of the process that keeps a workspace.
const SHIM_MODE: &[u8] = b"--workspace-shim";

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The command.
    Command,
    /// The process that keeps the workspace.
    Shim,
    /// The monitor of its VM.
    Supervisor,
    /// QEMU, if the engine has it.
    Qemu,
}

/// The processes of the workspace in `directory` that are such a victim.
pub fn of_workspace(directory: &Path, victim: Victim) -> Vec<Pid> {
    let shims = shims(directory);
    match victim {
        Victim::Command => Vec::new(),
        Victim::Shim => shims,
        Victim::Supervisor => running(children(&shims), b"microagent-supervisor"),
        Victim::Qemu => {
            let mut found = running(children(&children(&shims)), b"qemu-system");
            // That of the VM, and not one that is asked what it can do.
            found.retain(|pid| has_argument(*pid, b"-name"));
            found
        }
    }
}

fn has_argument(process: Pid, wanted: &[u8]) -> bool {
    let words = arguments(process);
    words.split(|&byte| byte == 0).any(|word| word == wanted)
}

/// Those of `processes` that run a program whose path has this text: a network has processes, too, and is
/// started again when they die.
fn running(processes: Vec<Pid>, program: &[u8]) -> Vec<Pid> {
    let runs = |pid: &Pid| {
        let words = arguments(*pid);
        let path = words.split(|&byte| byte == 0).next().unwrap_or_default();
        path.windows(program.len()).any(|part| part == program)
    };
    processes.into_iter().filter(runs).collect()
}

/// The processes that keep the workspace in `directory`: they have its lock open.
pub fn shims(directory: &Path) -> Vec<Pid> {
    let lock = directory.join("lock");
    let holds = |pid: &Pid| {
        let path = format!("/proc/{}/fd", pid.as_raw_pid());
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|target| target == lock)
    };
    let is_shim = |pid: &Pid| {
        arguments(*pid)
            .split(|&byte| byte == 0)
            .nth(1)
            .is_some_and(|word| word == SHIM_MODE)
    };
    all().into_iter().filter(is_shim).filter(holds).collect()
}

/// Other processes that have `path` in their arguments or environment, or a file below it open, with
/// their arguments; except this one and those that started it.
pub fn mentioning(path: &Path) -> Vec<(Pid, String)> {
    let text = path.as_os_str().as_encoded_bytes();
    let mentions = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    let ours = ancestors();
    let others = all().into_iter().filter(|pid| !ours.contains(pid));
    others
        .filter(|pid| {
            let directory = format!("/proc/{}", pid.as_raw_pid());
            let read = |name: &str| fs::read(format!("{directory}/{name}")).unwrap_or_default();
            let open = fs::read_dir(format!("{directory}/fd")).into_iter();
            let mut open = open.flatten().flatten();
            mentions(&read("cmdline"))
                || mentions(&read("environ"))
                || open.any(|entry| {
                    fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(path))
                })
        })
        .map(|pid| {
            let words = String::from_utf8_lossy(&arguments(pid)).replace('\0', " ");
            (pid, words)
        })
        .collect()
}

/// How many descriptors a process has.
pub fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).map_or(0, Iterator::count)
}

/// The processes that these have started.
pub fn children(parents: &[Pid]) -> Vec<Pid> {
    let is_child = |pid: &Pid| parent(*pid).is_some_and(|parent| parents.contains(&parent));
    all().into_iter().filter(is_child).collect()
}

fn ancestors() -> Vec<Pid> {
    let mut found = vec![getpid()];
    let mut next = getppid();
    while let Some(pid) = next {
        found.push(pid);
        next = parent(pid);
    }
    found
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The name of the program may contain spaces and parentheses.
    let (_, after) = stat.rsplit_once(") ")?;
    Pid::from_raw(after.split(' ').nth(1)?.parse().ok()?)
}

fn arguments(pid: Pid) -> Vec<u8> {
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default()
}

fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}
