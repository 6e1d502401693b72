//! Sessions: one thread and one request each.
//!
//! A VM is configured exactly once, before its first command.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use microagent_proto::agent::{Failure, FailureKind, Reply, Request};
use microagent_proto::envelope::{Program, envelope};
use microagent_proto::frame::{FrameError, read_opening, write_opening};
use microagent_proto::{VERSION, error_chain};

use crate::cgroup;
use crate::children::Children;
use crate::configure::{ConfigureError, Configured, configure};
use crate::console::log;
use crate::dial::dial;
use crate::exec::{self, Guest, Leftovers, Relay};
use crate::files;
use crate::freezer::Freezer;
use crate::namespaces::Namespaces;
use crate::oom::OomKills;
use crate::power;
use crate::resume::resume;
use crate::settle;
use crate::stream::Stream;
use crate::uevent::Uevents;

/// How long to wait after a session could not be accepted, for example because the guest is out of
/// descriptors or memory. Until a session ends, every further attempt would fail, too.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The state that all sessions share.
#[derive(Debug)]
pub struct Agent {
    children: Arc<Children>,
    namespaces: Arc<Namespaces>,
    proc: OwnedFd,
    oom_kills: OomKills,
    relay: Relay,
    freezer: Freezer,
    state: Mutex<State>,
}

/// Whether the VM is configured.
#[derive(Debug)]
pub enum State {
    /// Not yet. The subscription was opened before the first device appeared.
    Unconfigured(Uevents),
    /// A session is configuring it, which may wait for devices.
    Configuring,
    /// Configured.
    Configured(Arc<Configured>),
    /// Configuration failed halfway and cannot be repeated in this VM.
    Failed,
}

impl Agent {
    /// An agent. `program` is this program's file, `proc` its `/proc`.
    pub fn new(program: OwnedFd, proc: OwnedFd, oom_kills: OomKills, state: State) -> Agent {
        Agent {
            children: Arc::default(),
            namespaces: Arc::new(Namespaces::new(program)),
            proc,
            oom_kills,
            relay: Relay::default(),
            freezer: Freezer::default(),
            state: Mutex::new(state),
        }
    }

    /// Serves the sessions that `accept` returns, each on a thread of its own; `None` is ignored.
    pub fn accept_forever(
        self: &Arc<Agent>,
        mut accept: impl FnMut() -> io::Result<Option<Stream>>,
    ) -> ! {
        let mut failed = false;
        loop {
            let served = match accept() {
                Ok(Some(stream)) => self.start_session(stream),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match served {
                Ok(()) => failed = false,
                Err(error) => {
                    if !failed {
                        log(&format!("cannot accept a session: {error}"));
                    }
                    failed = true;
                    thread::sleep(ACCEPT_RETRY);
                }
            }
        }
    }

    /// Serves one session on a new thread.
    fn start_session(self: &Arc<Agent>, stream: Stream) -> io::Result<()> {
        let agent = Arc::clone(self);
        thread::Builder::new()
            .name("session".into())
            .spawn(move || agent.serve(stream))
            .map(drop)
    }

    /// Serves one session to its end. Errors of the stream itself can only be logged to the
    /// console.
    fn serve(&self, mut stream: Stream) {
        match self.answer(&mut stream) {
            Ok(leftovers) => {
                drop(stream);
                leftovers.discard();
            }
            Err(error) => log(&format!("session: {}", error_chain(&error))),
        }
    }

    fn answer(&self, stream: &mut Stream) -> Result<Leftovers, FrameError> {
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
        let needs_root = !matches!(
            request,
            Request::Settle | Request::Configure(_) | Request::Shutdown
        );
        if needs_root && let Err(failure) = self.configured() {
            return refuse(stream, failure);
        }
        match request {
            Request::Settle => {
                settle::free_caches();
                write_opening(stream, &Reply::Settled)?;
            }
            Request::Configure(request) => {
                match self.configure(|uevents| configure(&request, uevents)) {
                    Ok(mount_micros) => {
                        let certificates = request.trust.certificates.len();
                        let reply = Reply::Configured {
                            mount_micros,
                            certificates,
                        };
                        write_opening(stream, &reply)?;
                    }
                    Err(failure) => return refuse(stream, failure),
                }
            }
            Request::Exec(request) => {
                let configured = match self.configured() {
                    Ok(configured) => configured,
                    Err(failure) => return refuse(stream, failure),
                };
                let guest = Guest {
                    children: &self.children,
                    namespaces: &self.namespaces,
                    cgroups: configured.cgroups.as_ref(),
                    proc: &self.proc,
                    oom_kills: &self.oom_kills,
                    relay: &self.relay,
                };
                match exec::run(stream, &request, &guest)? {
                    Ok(leftovers) => return Ok(leftovers),
                    Err(failure) => return refuse(stream, failure),
                }
            }
            Request::Attach => {
                if !self.relay.is_open() {
                    return refuse(
                        stream,
                        bad_request("there is no workload to attach to".into()),
                    );
                }
                let session = stream.as_fd().try_clone_to_owned()?;
                write_opening(stream, &Reply::Attached)?;
                // One that has ended meanwhile is closed.
                let _ = self.relay.give(session.into());
            }
            Request::Freeze => match self.freezer.freeze(cgroup::MOUNT.as_ref()) {
                Ok(()) => {
                    // So that it is not lost with the memory if the VM cannot be restored.
                    rustix::fs::sync();
                    write_opening(stream, &Reply::Frozen)?;
                }
                Err(error) => {
                    let message = format!("the processes of the guest do not stop: {error}");
                    let kind = FailureKind::System;
                    return refuse(stream, Failure { kind, message });
                }
            },
            Request::Thaw => {
                self.freezer.thaw();
                write_opening(stream, &Reply::Thawed)?;
            }
            Request::Resume(request) => {
                let resumed =
                    (self.configured()).and_then(|configured| Ok(resume(&request, &configured)?));
                match resumed {
                    Ok(()) => {
                        self.freezer.thaw();
                        write_opening(stream, &Reply::Resumed)?;
                    }
                    Err(failure) => return refuse(stream, failure),
                }
            }
            Request::ReadTree(request) => files::send(stream, &request, &self.namespaces)?,
            Request::WriteTree(request) => files::receive(stream, &request, &self.namespaces)?,
            Request::Ping => write_opening(stream, &Reply::Pong)?,
            Request::Dial { port } => {
                if let Err(failure) = dial(stream, port)? {
                    return refuse(stream, failure);
                }
            }
            Request::Shutdown => {
                write_opening(stream, &Reply::ShuttingDown)?;
                let configured = self.configured().unwrap_or_default();
                power::shut_down(&self.children, &self.namespaces, &configured.disks)
            }
        }
        Ok(Leftovers::default())
    }

    /// Configures the VM with `apply`. The lock is not held meanwhile: it may wait for devices.
    fn configure(
        &self,
        apply: impl FnOnce(&Uevents) -> Result<Configured, ConfigureError>,
    ) -> Result<u64, Failure> {
        let mut state = self.lock();
        let uevents = match std::mem::replace(&mut *state, State::Configuring) {
            State::Unconfigured(uevents) => uevents,
            other => {
                *state = other;
                drop(state);
                return Err(self
                    .configured()
                    .err()
                    .unwrap_or_else(|| bad_request("this VM is already configured".into())));
            }
        };
        drop(state);
        let result = apply(&uevents);
        let mut state = self.lock();
        match result {
            Ok(configured) => {
                let mount_micros = configured.mount_micros;
                *state = State::Configured(Arc::new(configured));
                Ok(mount_micros)
            }
            Err(error) => {
                *state = State::Failed;
                Err(error.into())
            }
        }
    }

    /// How the VM is configured; refused if it is not.
    fn configured(&self) -> Result<Arc<Configured>, Failure> {
        let why = match &*self.lock() {
            State::Configured(configured) => return Ok(Arc::clone(configured)),
            State::Unconfigured(_) => "is not configured",
            State::Configuring => "is being configured",
            State::Failed => "could not be configured",
        };
        Err(bad_request(format!("this VM {why}")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(stream: &mut Stream, failure: Failure) -> Result<Leftovers, FrameError> {
    write_opening(stream, &Reply::Failed(failure))?;
    Ok(Leftovers::default())
}

fn bad_request(message: String) -> Failure {
    Failure {
        kind: FailureKind::BadRequest,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::sync::mpsc;

    use microagent_proto::agent::{Exec, Output, Place};

    use super::*;

    fn agent() -> Arc<Agent> {
        let open = |path| OwnedFd::from(std::fs::File::open(path).unwrap());
        let state = State::Unconfigured(Uevents::open().unwrap());
        Arc::new(Agent::new(
            open("/proc/self/exe"),
            open("/proc"),
            OomKills::open().unwrap(),
            state,
        ))
    }

    /// The answer of `agent` to a command.
    fn answer(agent: &Arc<Agent>) -> Reply {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        agent
            .start_session(Stream::from(OwnedFd::from(theirs)))
            .unwrap();
        let exec = Exec {
            argv: vec!["true".into()],
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            output: Output::Separate,
            place: Place::Workload,
            keep: false,
        };
        write_opening(&mut ours, &Request::Exec(exec)).unwrap();
        read_opening(&mut ours, Program::CommandLine, Program::Agent, "a reply").unwrap()
    }

    fn refusal(why: &str) -> Reply {
        Reply::Failed(bad_request(format!("this VM {why}")))
    }

    #[test]
    fn other_sessions_go_on_while_one_waits_for_devices() {
        let agent = agent();
        assert_eq!(answer(&agent), refusal("is not configured"));
        let (waits, waiting) = mpsc::channel();
        let (appear, device) = mpsc::channel();
        let configuring = {
            let agent = Arc::clone(&agent);
            thread::spawn(move || {
                agent.configure(|_| {
                    waits.send(()).unwrap();
                    device.recv().unwrap();
                    Ok(Configured {
                        mount_micros: 7,
                        disks: vec!["/data".into()],
                        cgroups: None,
                        read_only: false,
                        network: Mutex::default(),
                    })
                })
            })
        };
        waiting.recv().unwrap();
        assert_eq!(answer(&agent), refusal("is being configured"));
        let second = agent.configure(|_| unreachable!());
        assert_eq!(
            second,
            Err(bad_request("this VM is being configured".into()))
        );
        assert!(agent.configured().is_err());
        appear.send(()).unwrap();
        assert_eq!(configuring.join().unwrap(), Ok(7));
        assert_eq!(agent.configured().unwrap().disks, [PathBuf::from("/data")]);
        let third = agent.configure(|_| unreachable!());
        assert_eq!(
            third,
            Err(bad_request("this VM is already configured".into()))
        );
    }

    #[test]
    fn a_configuration_that_failed_is_not_repeated() {
        let agent = agent();
        let error = || ConfigureError::Clock(io::ErrorKind::InvalidInput.into());
        assert_eq!(agent.configure(|_| Err(error())), Err(error().into()));
        assert_eq!(answer(&agent), refusal("could not be configured"));
    }
}
