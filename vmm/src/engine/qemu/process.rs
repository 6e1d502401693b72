//! A QEMU process: its shutdown reason (from QMP), its standard error and its exit status make up
//! the outcome of the VM.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use microagent_proto::control::StopReason;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::qmp::{Commands, Message, Monitor, Response};
use super::{failed, start_thread};
use crate::engine::EngineError;

/// How much of QEMU's standard error is kept, in bytes: its end, where the reason is.
const STDERR_LIMIT: usize = 16 << 10;

/// A QEMU process and what becomes of it. Dropping it kills and reaps the process.
#[derive(Debug)]
pub struct QemuProcess {
    shared: Arc<Shared>,
    pid: u32,
    commands: Option<Commands>,
    /// Names the process without the danger of a reused number.
    pidfd: OwnedFd,
    stderr: Option<JoinHandle<()>>,
    child: Option<Child>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ended: OwnedFd,
    killed: Mutex<bool>,
    result: Mutex<Option<Result<StopReason, EngineError>>>,
    stderr_tail: Mutex<Vec<u8>>,
}

impl QemuProcess {
    /// Takes charge of a process that was just started.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left; the process is killed.
    pub fn new(mut child: Child) -> Result<QemuProcess, EngineError> {
        let prepare = || {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok((pidfd, ended))
        };
        let (pidfd, ended) = match prepare() {
            Ok(both) => both,
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(EngineError::Io {
                    operation: "watch QEMU",
                    source,
                });
            }
        };
        let shared = Arc::new(Shared {
            ended,
            killed: Mutex::new(false),
            result: Mutex::new(None),
            stderr_tail: Mutex::new(Vec::new()),
        });
        let stderr = child.stderr.take();
        let mut process = QemuProcess {
            shared: shared.clone(),
            pid: child.id(),
            commands: None,
            pidfd,
            stderr: None,
            child: Some(child),
            thread: None,
        };
        if let Some(stderr) = stderr {
            process.stderr = Some(start_thread("qemu-stderr", move || {
                shared.read_stderr(stderr)
            })?);
        }
        Ok(process)
    }

    /// Watches from now on, in a thread.
    ///
    /// # Errors
    /// When the host has no threads or descriptors left.
    pub fn watch(&mut self, monitor: Monitor) -> Result<(), EngineError> {
        let stream = monitor.stream().try_clone();
        let (sender, responses) = mpsc::channel();
        self.commands = Some(Commands::new(
            stream.map_err(failed("watch QEMU"))?,
            responses,
        ));
        let shared = self.shared.clone();
        let (child, stderr) = (self.child.take(), self.stderr.take());
        self.thread = Some(start_thread("qemu-watch", move || {
            let reason = shutdown_reason(monitor, &sender);
            let status = child.map(|mut child| child.wait());
            if let Some(stderr) = stderr {
                let _ = stderr.join();
            }
            shared.finish(shared.outcome(reason, status));
        })?);
        Ok(())
    }

    /// Why a process that never got to run its machine has ended; it is ended if it has not.
    pub fn failure(&mut self) -> EngineError {
        let status = self.child.as_mut().map(|child| {
            // It has closed its monitor, so it is on its way out; if it hangs there, not for long.
            let _ = rustix::event::poll(
                &mut [rustix::event::PollFd::new(
                    &self.pidfd,
                    rustix::event::PollFlags::IN,
                )],
                Some(&rustix::event::Timespec {
                    tv_sec: 2,
                    tv_nsec: 0,
                }),
            );
            let _ = child.kill();
            child.wait()
        });
        if let Some(stderr) = self.stderr.take() {
            let _ = stderr.join();
        }
        match self.shared.outcome(None, status) {
            Err(error) => error,
            Ok(_) => EngineError::Qemu("ended before its machine ran".into()),
        }
    }

    /// The process id. Not of another process as long as the VM has not ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The commands of the running machine; `None` before [`watch`](Self::watch).
    pub fn commands(&mut self) -> Option<&mut Commands> {
        self.commands.as_mut()
    }

    /// Becomes readable when the VM has ended.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    /// How it ended, once.
    pub fn end(&mut self) -> Option<Result<StopReason, EngineError>> {
        lock(&self.shared.result).take()
    }

    /// Kills QEMU. Does not wait.
    pub fn kill(&self) {
        *lock(&self.shared.killed) = true;
        // It fails only when the process is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        self.kill();
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        for thread in [self.thread.take(), self.stderr.take()]
            .into_iter()
            .flatten()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn read_stderr(&self, mut stderr: impl Read) {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut bytes) {
            let mut stderr_tail = lock(&self.stderr_tail);
            stderr_tail.extend_from_slice(&bytes[..n]);
            let excess = stderr_tail.len().saturating_sub(STDERR_LIMIT);
            stderr_tail.drain(..excess);
        }
    }

    fn outcome(
        &self,
        reason: Option<String>,
        status: Option<io::Result<ExitStatus>>,
    ) -> Result<StopReason, EngineError> {
        if *lock(&self.killed) {
            return Ok(StopReason::Killed);
        }
        match reason.as_deref() {
            Some("guest-shutdown") => return Ok(StopReason::PowerOff),
            Some("guest-reset") => return Ok(StopReason::Reset),
            Some("guest-panic") => return Ok(StopReason::Crash),
            // Somebody else asked QEMU to go: it is not the guest's doing.
            Some("host-signal" | "host-qmp-quit" | "host-ui") => return Ok(StopReason::Killed),
            _ => {}
        }
        if let Some(line) = error_line(&String::from_utf8_lossy(&lock(&self.stderr_tail))) {
            return Err(EngineError::Qemu(line));
        }
        match status {
            Some(Ok(status)) if status.success() => Ok(StopReason::Crash),
            Some(Ok(status)) => Err(EngineError::Qemu(match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended with {status}"),
            })),
            Some(Err(source)) => Err(EngineError::Io {
                operation: "wait for QEMU",
                source,
            }),
            None => Ok(StopReason::Crash),
        }
    }

    fn finish(&self, result: Result<StopReason, EngineError>) {
        *lock(&self.result) = Some(result);
        // It fails only when the counter is full.
        let _ = rustix::io::write(&self.ended, &1u64.to_ne_bytes());
    }
}

/// Reads QEMU's messages until it closes the connection, and passes on responses. Returns the last
/// reason for which the VM stopped.
fn shutdown_reason(mut monitor: Monitor, responses: &Sender<Response>) -> Option<String> {
    let mut reason = None;
    loop {
        match monitor.next() {
            Ok(Message::Shutdown(why)) => reason = Some(why),
            Ok(Message::Response(response)) => {
                // Sending fails only when the VM is being dropped.
                let _ = responses.send(response);
            }
            Ok(Message::Other) => {}
            Ok(Message::End) | Err(_) => return reason,
        }
    }
}

/// The line on standard error that says what went wrong: the last that is no warning.
fn error_line(stderr: &str) -> Option<String> {
    let line = stderr
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.contains("warning:"))?;
    Some(
        line.strip_prefix("qemu-system-x86_64: ")
            .unwrap_or(line)
            .to_owned(),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_the_last_line_that_is_no_warning() {
        let stderr_tail = "qemu-system-x86_64: warning: slow\nqemu-system-x86_64: cannot x\nqemu-system-x86_64: warning: y\n\n";
        assert_eq!(error_line(stderr_tail).as_deref(), Some("cannot x"));
        assert_eq!(error_line("qemu-system-x86_64: warning: y\n"), None);
    }
}
