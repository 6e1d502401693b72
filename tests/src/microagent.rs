//! One run of the command line, and what it left behind.
//!
//! A [`Host`] is what a run sees of this machine: a state directory, a home, a directory for
//! temporary files and one for sockets, all fresh and all below one short path. After a run,
//! [`Host::assert_clean`] looks at all of them, and at every process and every mount.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{Error, binaries, cache, lab, tool};

/// How long a run may take unless [`Invocation::deadline`] says otherwise.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long after the end of the command line its helpers may still be about.
const GRACE: Duration = Duration::from_secs(3);

/// What the command line sees of this machine.
#[derive(Debug)]
pub struct Host {
    root: TempDir,
}

impl Host {
    /// A machine on which microagent has never run.
    pub fn new() -> Result<Host, Error> {
        // Directly below /tmp: the paths of sockets are limited.
        let root = tempfile::Builder::new()
            .prefix("ma-")
            .tempdir_in("/tmp")
            .map_err(Error::file("/tmp"))?;
        for directory in ["home", "tmp", "run"] {
            let path = root.path().join(directory);
            fs::create_dir(&path).map_err(Error::file(&path))?;
        }
        Ok(Host { root })
    }

    /// A machine on which `kernel install` has been done, from the package in the cache.
    pub fn with_kernel() -> Result<Host, Error> {
        let package = lab::kernel()?.package;
        let program = binaries::microagent();
        let made = fs::metadata(&program).map_err(Error::file(&program))?;
        let key = format!(
            "kernel-{}-{}.{}",
            made.size(),
            made.mtime(),
            made.mtime_nsec()
        );
        let template = cache::entry_in(&binaries::scratch(), &key, |directory| {
            let installing = Host::new()?;
            let mut install = installing.microagent(["kernel", "install", "--from"]);
            let finished = install.argument(package).finish();
            assert_eq!(
                finished.code,
                Some(0),
                "kernel install: {}",
                finished.errors()
            );
            copy(&installing.state(), &directory.join("state"))
        })?;
        let host = Host::new()?;
        copy(&template.join("state"), &host.state())?;
        Ok(host)
    }

    /// The state directory; the command line makes it.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// A path below this machine's temporary directory's parent, for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("home").join(name)
    }

    /// A command line to be run.
    pub fn microagent<A: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Invocation {
        let mut invocation = self.program(&binaries::microagent());
        invocation.arguments = arguments.into_iter().map(Into::into).collect();
        invocation
    }

    /// A shell script to be run, which finds `microagent` by its name.
    pub fn shell(&self, script: &str) -> Invocation {
        let mut invocation = self.program(Path::new("/bin/sh"));
        invocation.argument("-c").argument(script);
        invocation
    }

    /// Any program to be run with the environment that [`Host::microagent`] has.
    pub fn program(&self, program: &Path) -> Invocation {
        let mut command = Command::new(program);
        let root = self.root.path();
        let programs = binaries::microagent();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            programs
                .parent()
                .map(Path::to_owned)
                .into_iter()
                .chain(std::env::split_paths(&path)),
        );
        command
            .env_clear()
            .env("PATH", path.unwrap_or_default())
            .env("HOME", root.join("home"))
            .env("TMPDIR", root.join("tmp"))
            .env("XDG_RUNTIME_DIR", root.join("run"))
            .env("MICROAGENT_STATE_DIR", self.state())
            .current_dir(root.join("home"));
        Invocation {
            command,
            arguments: Vec::new(),
            input: None,
            deadline: DEADLINE,
        }
    }

    /// Fails the test when a run left anything behind: a process, a mount, a loop device, a
    /// temporary file, a run directory, a workspace.
    ///
    /// # Panics
    ///
    /// Then.
    pub fn assert_clean(&self) {
        let left = self.left_behind(GRACE);
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// The processes of this machine, once the grace for their end is over or they are gone.
    pub fn processes(&self) -> Vec<String> {
        self.processes_after(GRACE)
    }

    fn left_behind(&self, grace: Duration) -> Vec<String> {
        let mut left: Vec<String> = self.processes_after(grace);
        let root = self.root.path();
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

    fn processes_after(&self, grace: Duration) -> Vec<String> {
        let end = Instant::now() + grace;
        loop {
            let found = processes_mentioning(self.root.path());
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
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let flags: [&OsStr; 2] = ["-a".as_ref(), "--reflink=auto".as_ref()];
    tool::run(
        "cp",
        flags.into_iter().chain([from.as_os_str(), to.as_os_str()]),
    )
    .map(drop)
}

/// What is meant to stay: what was learnt about the host, and the parent of run directories.
const KEPT: [&str; 2] = ["state/run/engine.json", "run/microagent"];

/// All that is below a directory.
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

/// Other processes in whose arguments, environment or working directory this path occurs.
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

/// Waits for the end of a process that is not our child.
fn wait_for_process(pid: Pid, limit: Duration) {
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

/// A command line, not yet run.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    arguments: Vec<OsString>,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Invocation {
    /// Adds an argument.
    pub fn argument(&mut self, argument: impl Into<OsString>) -> &mut Invocation {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of the environment.
    pub fn variable(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Invocation {
        self.command.env(name, value);
        self
    }

    /// What standard input holds; it is empty otherwise.
    pub fn input(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Invocation {
        self.input = Some(bytes.into());
        self
    }

    /// When the run is killed and the test fails.
    pub fn deadline(&mut self, limit: Duration) -> &mut Invocation {
        self.deadline = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub fn finish(&mut self) -> Finished {
        self.start().finish()
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When that is not possible.
    pub fn start(&mut self) -> Running {
        let started = Instant::now();
        let mut child = self
            .command
            .args(&self.arguments)
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line can be started");
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.input.take()) {
            // It may end without reading it all.
            thread::spawn(move || pipe.write_all(&input));
        }
        let (said, heard) = mpsc::channel();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both were asked for");
        };
        Running {
            stdout: Some(collect(stdout, None)),
            stderr: Some(collect(stderr, Some(said))),
            heard,
            errors: String::new(),
            child,
            started,
            deadline: self.deadline,
        }
    }
}

fn collect(
    mut from: impl Read + Send + 'static,
    tell: Option<mpsc::Sender<Vec<u8>>>,
) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
            if let Some(tell) = &tell {
                let _ = tell.send(chunk[..count].to_vec());
            }
        }
        all
    })
}

/// A command line that runs. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    heard: Receiver<Vec<u8>>,
    errors: String,
    started: Instant,
    deadline: Duration,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the process can be signalled");
    }

    /// Waits until it has said this on standard error.
    ///
    /// # Panics
    ///
    /// When it does not before its deadline.
    pub fn wait_for_error_text(&mut self, text: &str) {
        let end = self.started + self.deadline;
        while !self.errors.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(chunk) => self.errors.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{error} before {text:?}; it said: {}", self.errors),
            }
        }
    }

    /// The processes that it started, directly.
    pub fn children(&self) -> BTreeSet<i32> {
        let pid = self.pid().as_raw_pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .collect()
    }

    /// Sends a signal once so much time has passed since its start, unless it ends before, and
    /// waits for its end.
    pub fn signal_after(self, delay: Duration, signal: Signal) -> Finished {
        wait_for_process(self.pid(), delay.saturating_sub(self.started.elapsed()));
        // Not reaped yet, so the number is still this process's.
        self.signal(signal);
        self.finish()
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When that does not come in time.
    pub fn finish(mut self) -> Finished {
        let left = (self.started + self.deadline).saturating_duration_since(Instant::now());
        wait_for_process(self.pid(), left);
        let status = self.child.try_wait().expect("a child can be waited for");
        let elapsed = self.started.elapsed();
        if status.is_none() {
            let _ = self.child.kill();
        }
        let collected = |output: Option<JoinHandle<Vec<u8>>>| {
            output
                .and_then(|thread| thread.join().ok())
                .unwrap_or_default()
        };
        let stdout = collected(self.stdout.take());
        let stderr = collected(self.stderr.take());
        let Some(status) = status else {
            panic!(
                "it did not end within {:?}; stdout: {}; stderr: {}",
                self.deadline,
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            );
        };
        Finished {
            code: status.code(),
            status,
            stdout,
            stderr,
            elapsed,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The same, with the signal.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub elapsed: Duration,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is not one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "not JSON: {error}: {:?}; stderr: {}",
                self.text(),
                self.errors()
            )
        })
    }

    /// The signal that killed it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails the test unless it ended with this code.
    ///
    /// # Panics
    ///
    /// Then, with all that it said.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Finished {
        assert_eq!(
            self.code,
            Some(code),
            "signal {:?}; stdout: {}; stderr: {}",
            self.signal(),
            self.text(),
            self.errors()
        );
        self
    }
}
