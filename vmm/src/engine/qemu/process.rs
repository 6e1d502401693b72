//! A QEMU process: its shutdown reason (from QMP), its standard error and its exit status make up
//! the outcome of the VM.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use microagent_proto::control::StopReason;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use super::qmp::{Commands, Message, Monitor, Response};
use super::{failed, start_thread};
use crate::engine::EngineError;

/// How much of QEMU's standard error is kept, in bytes: the end, which holds the error message.
const STDERR_LIMIT: usize = 16 << 10;

/// How long QEMU's threads may take to stop. A thread that waits for the host's disk does not.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look meanwhile.
const SUSPEND_INTERVAL: Duration = Duration::from_millis(1);

/// A QEMU process and its outcome. Dropping it kills and reaps the process.
#[derive(Debug)]
pub struct QemuProcess {
    shared: Arc<Shared>,
    pid: u32,
    commands: Option<Commands>,
    /// Identifies the process even if its process id is reused.
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
    /// Takes ownership of a process that was just started.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads; QEMU is killed.
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

    /// Starts the thread that reads from `monitor` and waits for the process to exit.
    ///
    /// # Errors
    /// When the process is out of descriptors or threads.
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

    /// The error of a process that exited before its machine ran. Kills a process that does not
    /// exit.
    pub fn failure(&mut self) -> EngineError {
        let status = self.child.as_mut().map(|child| {
            // It has closed its monitor, so it is about to exit. If it hangs, it is killed.
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
            Ok(_) => EngineError::Qemu("exited before its machine ran".into()),
        }
    }

    /// The process id. It is not reused while the VM runs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends commands to QEMU; `None` before [`watch`](Self::watch).
    pub fn commands(&mut self) -> Option<&mut Commands> {
        self.commands.as_mut()
    }

    /// Becomes readable when the VM has ended.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    /// The outcome, returned once; `None` while the VM runs.
    pub fn end(&mut self) -> Option<Result<StopReason, EngineError>> {
        lock(&self.shared.result).take()
    }

    /// Kills QEMU. Does not wait.
    pub fn kill(&self) {
        *lock(&self.shared.killed) = true;
        // Fails only if the process has already exited.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl QemuProcess {
    /// Stops all threads of QEMU; returns when none runs. Not with the command `stop` of QMP: that
    /// stops the rings of the vhost-user devices, which for them is a reset, and would close all
    /// streams to the guest. The guest's clocks are derived from the host's, so they go on.
    ///
    /// Without effect if it has exited, which is reported then.
    ///
    /// # Errors
    /// When they do not stop; then all of them run.
    pub fn suspend(&self) -> io::Result<()> {
        if !self.signal(Signal::STOP)? {
            return Ok(());
        }
        let deadline = Instant::now() + SUSPEND_TIMEOUT;
        // Tells without waiting, because a process that ends meanwhile never stops.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), stopped) {
                // It was reaped.
                Ok(Some(_)) | Err(Errno::CHILD) => return Ok(()),
                Ok(None) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= deadline {
                self.resume()?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(SUSPEND_INTERVAL);
        }
    }

    /// Lets QEMU run again. Without effect if it has exited.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT).map(drop)
    }

    /// Signals QEMU; `false` if it has exited.
    fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl QemuProcess {
    /// Kills QEMU and waits until it is gone.
    pub fn stop(&mut self) {
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

impl Drop for QemuProcess {
    fn drop(&mut self) {
        self.stop();
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
            // Another process stopped QEMU; the guest did not.
            Some("host-signal" | "host-qmp-quit" | "host-ui") => return Ok(StopReason::Killed),
            _ => {}
        }
        if let Some(line) = error_line(&String::from_utf8_lossy(&lock(&self.stderr_tail))) {
            return Err(EngineError::Qemu(line));
        }
        match status {
            Some(Ok(status)) if status.success() => Ok(StopReason::Crash),
            Some(Ok(status)) => Err(EngineError::Qemu(match status.signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => format!("exited with {status}"),
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
        // Fails only if the counter is at its maximum; the event is then readable.
        let _ = rustix::io::write(&self.ended, &1u64.to_ne_bytes());
    }
}

/// Reads QEMU's messages until it closes the connection, and forwards responses. Returns the last
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

/// The error message on standard error: the last line that is not a warning.
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
    fn the_error_is_the_last_line_that_is_not_a_warning() {
        let stderr_tail = "qemu-system-x86_64: warning: slow\nqemu-system-x86_64: cannot x\nqemu-system-x86_64: warning: y\n\n";
        assert_eq!(error_line(stderr_tail).as_deref(), Some("cannot x"));
        assert_eq!(error_line("qemu-system-x86_64: warning: y\n"), None);
    }
}
