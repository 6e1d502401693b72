//! The end of a process that was told to end: by a signal, or by a deadline that the main thread
//! does not meet.
//!
//! Whoever ends the process first does it alone; the other waits for ever. The end of an
//! interrupted process kills its children, then *executes itself* in the mode [`SWEEP_MODE`]: by then
//! every lock it held is released, so that what it was writing can be swept like that of a dead
//! process, and nothing of it stays behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{EXIT_SIGNAL_BASE, Failure};
use crate::output::Output;

/// The first argument of the process that sweeps: `microagent <SWEEP_MODE> CODE STORE PATH…`.
const SWEEP_MODE: &str = "--sweep-after-interruption";

/// What must not stay behind, and who ends the process.
#[derive(Debug, Clone)]
pub struct Termination {
    state: Arc<Mutex<State>>,
    output: Output,
}

#[derive(Debug, Default)]
struct State {
    store: Option<PathBuf>,
    paths: Vec<PathBuf>,
    /// Who ends the process.
    owner: Option<ThreadId>,
}

impl Termination {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// When they cannot be taken over.
    pub fn install(output: Output) -> Result<Termination, Failure> {
        let termination = Termination {
            state: Arc::default(),
            output,
        };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(signal_error)?;
        let of_signals = termination.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    let code = EXIT_SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0));
                    of_signals
                        .terminate(code, &Failure::new(ErrorKind::Interrupted, "interrupted"));
                }
            })
            .map_err(signal_error)?;
        Ok(termination)
    }

    /// The store in which this process writes.
    pub fn set_store(&self, root: &Path) {
        self.lock().store = Some(root.to_owned());
    }

    /// A file or directory that must go if the process is interrupted from now on.
    pub fn remove_on_exit(&self, path: &Path) {
        self.lock().paths.push(path.to_owned());
    }

    /// It may stay from now on.
    pub fn keep(&self, path: &Path) {
        self.lock().paths.retain(|known| known != path);
    }

    /// The main thread has done its work and ends the process, except for what it still has to
    /// say. Signals have no effect from now on.
    pub fn disarm(&self) {
        drop(self.claim());
    }

    /// Ends the process now, saying why.
    pub fn terminate(&self, code: u8, why: &Failure) -> ! {
        let state = self.claim();
        // What other threads have to say comes before this or never.
        let _stderr = io::stderr().lock();
        self.output.failure(why);
        kill_children();
        let mut sweep = Command::new("/proc/self/exe");
        sweep.arg(SWEEP_MODE).arg(code.to_string());
        sweep.arg(
            state
                .store
                .as_deref()
                .map_or(OsStr::new(""), Path::as_os_str),
        );
        sweep.args(&state.paths);
        // Comes back only when it fails; what is left then is swept by the next run.
        let _ = execute(sweep);
        for path in &state.paths {
            remove(path);
        }
        std::process::exit(code.into())
    }

    /// Makes this thread the one that ends the process. Waits for ever when another one does.
    fn claim(&self) -> MutexGuard<'_, State> {
        let me = thread::current().id();
        let mut state = self.lock();
        if *state.owner.get_or_insert(me) != me {
            drop(state);
            loop {
                thread::park();
            }
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_error(error: io::Error) -> Failure {
    Failure::new(
        ErrorKind::Host,
        format!("cannot listen to signals: {error}"),
    )
}

/// The mode of a process that took the place of an interrupted one; `None` when it is none.
pub fn run_sweep_mode(words: &[OsString]) -> Option<ExitCode> {
    let [_, mode, code, store, paths @ ..] = words else {
        return None;
    };
    if mode != SWEEP_MODE {
        return None;
    }
    for path in paths {
        remove(Path::new(path));
    }
    if !store.is_empty()
        && let Ok(store) = Store::open(Path::new(store))
    {
        // What is left then is swept by the next run.
        let _ = store.sweep();
    }
    let code = code.to_str().and_then(|code| code.parse::<u8>().ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn remove(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// Executes `command` in place of this process. Returns only when it cannot.
///
/// Until the other threads are gone they cannot start any: Linux answers EAGAIN while a process
/// executes (`copy_fs` in kernel/fork.c), and [`thread::spawn`] panics. Where a panic aborts, it
/// could be the end of this process before the one that is wanted. So a thread that panics from
/// here on waits for its end, without a word.
fn execute(mut command: Command) -> io::Error {
    let me = thread::current().id();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        while thread::current().id() != me {
            thread::park();
        }
        before(panic);
    }));
    command.exec()
}

/// Kills every child: the supervisor, and whatever the pipeline has started (a package client).
fn kill_children() {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return;
    };
    for task in tasks.flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            kill_child(child);
        }
    }
}

fn kill_child(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // Between the two steps it may have been reaped and its number given away: the descriptor
    // stands for one process, and only one that is still our child is killed.
    if parent_of(pid) == Some(rustix::process::getpid()) {
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
}

/// The fourth field of `/proc/PID/stat`; the second ends with the last parenthesis.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const EXECUTES: &str = "MICROAGENT_TEST_EXECUTES";

    /// The test below runs this one in a process of its own.
    #[test]
    fn a_process_that_is_replaced() {
        if std::env::var_os(EXECUTES).is_none() {
            return;
        }
        let (started, seen) = mpsc::channel();
        for _ in 0..4 {
            let started = started.clone();
            thread::spawn(move || {
                loop {
                    thread::spawn(|| ()).join().unwrap();
                    let _ = started.send(());
                }
            });
        }
        for _ in 0..100 {
            seen.recv().unwrap();
        }
        panic!("{}", execute(Command::new("true")));
    }

    #[test]
    fn threads_that_cannot_start_others_meanwhile_are_not_heard_of() {
        let test = "termination::tests::a_process_that_is_replaced";
        for _ in 0..20 {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(EXECUTES, "yes")
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            assert_eq!(output.status.code(), Some(0));
        }
    }
}
