//! A command line: not yet run, running, finished.

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

/// How long a run may take unless [`Invocation::deadline`] says otherwise.
const DEADLINE: Duration = Duration::from_secs(120);

/// A command line, not yet run.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    arguments: Vec<OsString>,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Invocation {
    /// A command line of this program, with its environment, and no arguments yet.
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

    /// The error at the end of standard error, of a command with `--json`.
    ///
    /// # Panics
    ///
    /// When the last line there is none, or a line before it is no event.
    pub fn error(&self) -> serde_json::Value {
        let errors = self.errors();
        let mut error = serde_json::Value::Null;
        for line in errors.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("no line of JSON: {errors}"));
            assert!(error.is_null(), "something after the error: {errors}");
            match line.get("error") {
                Some(found) => error = found.clone(),
                None => assert!(line["event"]["kind"].is_string(), "{errors}"),
            }
        }
        assert!(error.is_object(), "no error: {errors}");
        error
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
