//! Sessions: one thread and one request each.
//!
//! A VM is configured exactly once, before its first command.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use microagent_proto::agent::{Configure, Exec, Failure, FailureKind, Reply, Request};
use microagent_proto::envelope::{Program, envelope};
use microagent_proto::frame::{FrameError, read_opening, write_opening};
use microagent_proto::{VERSION, error_chain};
use rustix::process::{Pid, set_child_subreaper};

use crate::children::Children;
use crate::configure::configure;
use crate::exec;
use crate::power::{self, log};
use crate::stream::Stream;
use crate::uevent::Uevents;

/// The state that all sessions share.
#[derive(Debug)]
pub struct Agent {
    children: Arc<Children>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Not configured. The subscription was opened before the first device appeared.
    Unconfigured(Uevents),
    /// Configured; holds the mount points of the disks other than the root.
    Configured(Vec<PathBuf>),
    /// Configuration failed halfway and cannot be repeated in this VM.
    Failed,
}

impl Agent {
    /// The agent of a VM that is not configured.
    pub fn new(uevents: Uevents) -> Agent {
        Agent {
            children: Arc::default(),
            state: Mutex::new(State::Unconfigured(uevents)),
        }
    }

    /// Starts the thread that reaps processes.
    pub fn start_reaping(&self) -> io::Result<()> {
        let children = Arc::clone(&self.children);
        thread::Builder::new()
            .name("reaper".into())
            .spawn(move || children.reap_forever())
            .map(drop)
    }

    /// Serves one session on a new thread.
    pub fn start_session(self: &Arc<Agent>, stream: Stream) -> io::Result<()> {
        let agent = Arc::clone(self);
        thread::Builder::new()
            .name("session".into())
            .spawn(move || agent.serve(stream))
            .map(drop)
    }

    /// Serves one session to its end. Errors of the stream itself can only be logged to the
    /// console.
    fn serve(&self, mut stream: Stream) {
        if let Err(error) = self.answer(&mut stream) {
            log(&format!("session: {}", error_chain(&error)));
        }
    }

    fn answer(&self, stream: &mut Stream) -> Result<(), FrameError> {
        let opening = read_opening(stream, Program::Agent, Program::CommandLine, "a request");
        let request = match opening {
            Ok(request) => request,
            Err(error @ FrameError::Version(_)) => {
                // A host of another version reads at least the envelope.
                stream.write_all(&envelope(VERSION))?;
                return Err(error);
            }
            Err(error @ (FrameError::BadMessage(_) | FrameError::Unexpected { .. })) => {
                return refuse(stream, bad_request(error_chain(&error)));
            }
            Err(error) => return Err(error),
        };
        match request {
            Request::Configure(request) => match self.configure(&request) {
                Ok(mount_micros) => write_opening(stream, &Reply::Configured { mount_micros }),
                Err(failure) => refuse(stream, failure),
            },
            Request::Exec(request) => match self.exec(stream, &request)? {
                Ok(()) => Ok(()),
                Err(failure) => refuse(stream, failure),
            },
            Request::Shutdown => {
                write_opening(stream, &Reply::ShuttingDown)?;
                power::shut_down(&self.children, &self.disks())
            }
        }
    }

    fn configure(&self, request: &Configure) -> Result<u64, Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State::Unconfigured(uevents) = &*state else {
            return Err(bad_request("this VM is already configured".into()));
        };
        match configure(request, uevents) {
            Ok(configured) => {
                *state = State::Configured(configured.disks);
                Ok(configured.mount_micros)
            }
            Err(error) => {
                *state = State::Failed;
                Err(error.into())
            }
        }
    }

    fn disks(&self) -> Vec<PathBuf> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Configured(disks) => disks.clone(),
            State::Unconfigured(_) | State::Failed => Vec::new(),
        }
    }

    fn exec(&self, stream: &mut Stream, request: &Exec) -> Result<Result<(), Failure>, FrameError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = matches!(*state, State::Configured(_));
        drop(state);
        if !configured {
            return Ok(Err(bad_request("this VM is not configured".into())));
        }
        exec::run(stream, request, &self.children)
    }
}

fn refuse(stream: &mut Stream, failure: Failure) -> Result<(), FrameError> {
    write_opening(stream, &Reply::Failed(failure))
}

fn bad_request(message: String) -> Failure {
    Failure {
        kind: FailureKind::BadRequest,
        message,
    }
}

/// For tests: serves one session on standard input, with `root` as the root directory.
pub fn serve_session_on_stdin(root: &Path) -> ExitCode {
    fn prepare(root: &Path) -> io::Result<(Arc<Agent>, Stream)> {
        let stream = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::process::chroot(root)?;
        rustix::process::chdir("/")?;
        // Orphans are reparented to this process even if it is not PID 1.
        set_child_subreaper(Some(Pid::INIT))?;
        let agent = Arc::new(Agent {
            children: Arc::default(),
            state: Mutex::new(State::Configured(Vec::new())),
        });
        agent.start_reaping()?;
        Ok((agent, Stream::from(stream)))
    }
    match prepare(root) {
        Ok((agent, stream)) => {
            agent.serve(stream);
            ExitCode::SUCCESS
        }
        Err(error) => {
            log(&format!("cannot serve a session: {error}"));
            ExitCode::FAILURE
        }
    }
}
