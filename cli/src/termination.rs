//! Abnormal termination of this process: by a signal, or by a deadline that the main thread misses.
//!
//! The first thread that terminates the process owns its end. If that is the main thread, which
//! prints its result, and it does not get rid of it (nobody reads the pipe, or the terminal is
//! stopped), a signal or a deadline ends the process nevertheless. An
//! interrupted process restores its terminal, kills its children, then executes itself with [`SWEEP_MODE`]: `execve`
//! releases every lock it held, so its incomplete files can be swept like those of a dead process,
//! and nothing is left behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::machine::reaper;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{EXIT_SIGNAL_BASE, Failure};
use crate::output::Output;
use crate::terminal::Mode;
use crate::terminal_guard::Guard;

/// First argument of the cleanup process: `microagent <SWEEP_MODE> CODE STORE PATH…`.
const SWEEP_MODE: &str = "--sweep-after-interruption";

/// How long a reader of standard error may take to read the failure of a terminated process.
const READER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the thread that owns the end of the process may take to finish before another one that
/// must terminate it does so.
const OWNER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long killed children may take to end. To tear a VM down takes milliseconds.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);

/// What to remove on termination, and which thread terminates the process.
#[derive(Debug, Clone)]
pub struct Termination {
    state: Arc<Mutex<State>>,
    output: Output,
}

#[derive(Debug, Default)]
struct State {
    store: Option<PathBuf>,
    paths: Vec<PathBuf>,
    /// The thread that terminates the process.
    owner: Option<ThreadId>,
    /// The mode of the terminal to restore.
    terminal: Option<Mode>,
    /// Who does so if this process is killed.
    guard: Option<Guard>,
}

impl Termination {
    /// Installs handlers for SIGINT, SIGTERM and SIGHUP, except those that this process was started
    /// to ignore: SIGHUP by nohup(1), SIGINT by a shell without job control for a background job.
    ///
    /// # Errors
    /// When a handler or the signal thread cannot be installed.
    pub fn install(output: Output) -> Result<Termination, Failure> {
        let termination = Termination {
            state: Arc::default(),
            output,
        };
        let ignored = ignored_signals();
        let handled = [SIGINT, SIGTERM, SIGHUP].into_iter();
        let handled = handled.filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let mut signals = Signals::new(handled).map_err(signal_error)?;
        let signal_handle = termination.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    let code = EXIT_SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0));
                    signal_handle
                        .terminate(code, &Failure::new(ErrorKind::Interrupted, "interrupted"));
                }
            })
            .map_err(signal_error)?;
        Ok(termination)
    }

    /// One that no signal triggers.
    #[cfg(test)]
    pub fn for_test() -> Termination {
        Termination {
            state: Arc::default(),
            output: Output::default(),
        }
    }

    /// Sets the store that is swept on termination.
    pub fn set_store(&self, root: &Path) {
        self.lock().store = Some(root.to_owned());
    }

    /// Registers a file or directory to be removed on termination.
    pub fn remove_on_exit(&self, path: &Path) {
        self.lock().paths.push(path.to_owned());
    }

    /// Unregisters a file or directory.
    pub fn keep(&self, path: &Path) {
        self.lock().paths.retain(|known| known != path);
    }

    /// Sets the terminal, which had `mode`, to raw mode, and restores the former one on termination,
    /// unless that has begun; `guard` does so if this process is killed.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn set_raw_mode(&self, mode: Mode, guard: Option<Guard>) -> io::Result<()> {
        let mut state = self.lock();
        if state.owner.is_none() {
            state.guard = guard;
            state.terminal.insert(mode).set_raw()?;
        }
        Ok(())
    }

    /// Sets raw mode again, unless the former mode has been restored.
    pub fn renew_raw_mode(&self) {
        if let Some(mode) = &self.lock().terminal {
            let _ = mode.set_raw();
        }
    }

    /// Restores the mode of the terminal now.
    pub fn restore_terminal(&self) {
        let mut state = self.lock();
        if let Some(mode) = state.terminal.take() {
            mode.restore();
        }
        // Not before.
        state.guard = None;
    }

    /// Makes the calling thread the owner of the end: it has finished its work and only prints its
    /// result. From now on, signals have an effect only if it takes longer than [`OWNER_TIMEOUT`].
    /// Blocks forever if another thread is the owner.
    pub fn disarm(&self) {
        if !self.claim() {
            loop {
                thread::park();
            }
        }
    }

    /// Prints `failure`, cleans up and exits with `code`. Does not wait longer than a few seconds
    /// for readers of the output and for another thread that ends the process.
    pub fn terminate(&self, code: u8, failure: &Failure) -> ! {
        let owner = self.claim();
        self.restore_terminal();
        if owner {
            self.print(failure);
        } else {
            // The owner's failure is the one to print.
            thread::sleep(OWNER_TIMEOUT);
        }
        let state = self.lock();
        reaper::adopt_orphans();
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
        // Returns only if it fails; the next run then sweeps what is left.
        let _ = execute(sweep);
        for path in &state.paths {
            remove(path);
        }
        std::process::exit(code.into())
    }

    /// Makes the calling thread the owner; returns false if another thread is.
    fn claim(&self) -> bool {
        let me = thread::current().id();
        *self.lock().owner.get_or_insert(me) == me
    }

    /// Prints `failure` unless nobody reads standard error. Another thread may hold its lock and
    /// block in a write, so the failure is printed by a thread that can be left behind. That thread
    /// keeps the lock, so that no other prints after the failure.
    fn print(&self, failure: &Failure) {
        let (done, printed) = mpsc::channel();
        let (output, message) = (self.output, failure.clone());
        let printing = thread::Builder::new()
            .name("failure".into())
            .spawn(move || {
                let _stderr = io::stderr().lock();
                output.failure(&message);
                let _ = done.send(());
                loop {
                    thread::park();
                }
            });
        if printing.is_ok() {
            let _ = printed.recv_timeout(READER_TIMEOUT);
        } else if stderr_is_writable() {
            self.output.failure(failure);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether standard error accepts a short line within [`READER_TIMEOUT`].
fn stderr_is_writable() -> bool {
    let timeout = Timespec::try_from(READER_TIMEOUT).ok();
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    matches!(poll(&mut fds, timeout.as_ref()), Ok(1))
}

/// The mask of ignored signals. Without /proc, none.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    reaper::signal_mask(&status, "SigIgn")
}

fn signal_error(error: io::Error) -> Failure {
    Failure::new(
        ErrorKind::Host,
        format!("cannot install signal handlers: {error}"),
    )
}

/// Cleans up after an interrupted process if `words` select [`SWEEP_MODE`], otherwise returns
/// `None`.
pub fn run_sweep_mode(words: &[OsString]) -> Option<ExitCode> {
    let [_, mode, code, store, paths @ ..] = words else {
        return None;
    };
    if mode != SWEEP_MODE {
        return None;
    }
    // Those that were killed before this program was executed, theirs, and one that another thread
    // was starting at that moment: until it has executed its program, it holds the locks of this
    // process, and what is locked is not swept.
    kill_children();
    reaper::reap_children(REAP_TIMEOUT);
    for path in paths {
        remove(Path::new(path));
    }
    if !store.is_empty()
        && let Ok(store) = Store::open(Path::new(store))
    {
        // On failure, the next run sweeps what is left.
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

/// Replaces this process with `command`. Returns only on failure.
///
/// During `execve` Linux fails thread creation with EAGAIN (`copy_fs` in kernel/fork.c), so
/// [`thread::spawn`] in another thread panics. With `panic = "abort"` that would abort this process
/// before `execve` completes. From here on, another thread that panics therefore blocks silently
/// until `execve` ends it.
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

/// Kills every child: the supervisor, and programs that the pipeline started, such as apt-get.
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
    // The child may have been reaped and its PID reused before pidfd_open; the descriptor refers to
    // one process, which is killed only if it is still a child.
    if parent_of(pid) == Some(rustix::process::getpid()) {
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = reaper::stat_after_name(pid.as_raw_nonzero())?;
    Pid::from_raw(stat.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const EXECUTES: &str = "MICROAGENT_TEST_EXECUTES";

    /// The next test runs this one in a separate process.
    #[test]
    fn process_that_executes_another() {
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
    fn thread_creation_that_fails_during_execve_does_not_panic_visibly() {
        let test = "termination::tests::process_that_executes_another";
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
