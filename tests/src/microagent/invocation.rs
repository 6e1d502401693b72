//! A command line: prepared, running, finished.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::left_behind::wait_for_process;

/// Default time limit of a run; [`Invocation::deadline`] overrides it.
const DEADLINE: Duration = Duration::from_secs(120);

/// A command line that has not been started.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    arguments: Vec<OsString>,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Invocation {
    /// A command line of this program and environment without arguments.
    pub(crate) fn new(command: Command) -> Invocation {
        Invocation {
            command,
            arguments: Vec::new(),
            input: None,
            deadline: DEADLINE,
        }
    }

    /// Adds an argument.
    pub fn argument(&mut self, argument: impl Into<OsString>) -> &mut Invocation {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn variable(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Invocation {
        self.command.env(name, value);
        self
    }

    /// Sets the content of standard input, which is empty by default.
    pub fn input(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Invocation {
        self.input = Some(bytes.into());
        self
    }

    /// Sets the time limit, after which the run is killed and the test fails.
    pub fn deadline(&mut self, limit: Duration) -> &mut Invocation {
        self.deadline = limit;
        self
    }

    /// Starts it and waits for its exit.
    ///
    /// # Panics
    ///
    /// If it exceeds its time limit.
    pub fn finish(&mut self) -> Finished {
        self.start().finish()
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
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
            // The program may exit before it has read everything.
            thread::spawn(move || pipe.write_all(&input));
        }
        let (error_sender, error_chunks) = mpsc::channel();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            unreachable!("both are piped");
        };
        Running {
            stdout: Some(collect(stdout, None)),
            stderr: Some(collect(stderr, Some(error_sender))),
            error_chunks,
            errors: String::new(),
            child,
            started,
            deadline: self.deadline,
        }
    }
}

fn collect(
    mut from: impl Read + Send + 'static,
    sender: Option<mpsc::Sender<Vec<u8>>>,
) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
            if let Some(sender) = &sender {
                let _ = sender.send(chunk[..count].to_vec());
            }
        }
        all
    })
}

/// A running command line, killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    error_chunks: Receiver<Vec<u8>>,
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
    /// If the process no longer exists.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the process can be signalled");
    }

    /// Waits until standard error contains this text.
    ///
    /// # Panics
    ///
    /// If it does not within the time limit.
    pub fn wait_for_error_text(&mut self, text: &str) {
        let end = self.started + self.deadline;
        while !self.errors.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.error_chunks.recv_timeout(left) {
                Ok(chunk) => self.errors.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{error} before {text:?}; stderr: {}", self.errors),
            }
        }
    }

    /// The ids of its child processes.
    pub fn children(&self) -> BTreeSet<i32> {
        let pid = self.pid().as_raw_pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .collect()
    }

    /// Sends a signal `delay` after its start, unless it exits before, and waits for its exit.
    pub fn signal_after(self, delay: Duration, signal: Signal) -> Finished {
        wait_for_process(self.pid(), delay.saturating_sub(self.started.elapsed()));
        // Not reaped yet, so the process id is not reused.
        self.signal(signal);
        self.finish()
    }

    /// Waits for its exit.
    ///
    /// # Panics
    ///
    /// If it exceeds its time limit.
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
                "the process did not exit within {:?}; stdout: {}; stderr: {}",
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

/// The result of a run.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// The exit status, including a signal.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// The time from start to exit.
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
    /// If it is not exactly one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "not JSON: {error}: {:?}; stderr: {}",
                self.text(),
                self.errors()
            )
        })
    }

    /// The error document at the end of standard error, for a command with `--json`.
    ///
    /// # Panics
    ///
    /// If the last line of standard error is not an error document, or a line before it is not an
    /// event.
    pub fn error(&self) -> serde_json::Value {
        let errors = self.errors();
        let mut error = serde_json::Value::Null;
        for line in errors.lines() {
            let line: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|_| panic!("not a line of JSON: {errors}"));
            assert!(error.is_null(), "output after the error: {errors}");
            match line.get("error") {
                Some(found) => error = found.clone(),
                None => assert!(line["event"]["kind"].is_string(), "{errors}"),
            }
        }
        assert!(error.is_object(), "no error: {errors}");
        error
    }

    /// The signal that killed it, if any.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Checks the exit code.
    ///
    /// # Panics
    ///
    /// If the code differs, with the complete output.
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
