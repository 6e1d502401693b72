//! The socket on which a shim listens. Each client has a thread, so that one which stalls disturbs
//! no other.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::error_chain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::getuid;

use super::message::Event;
use super::outcome::Ending;
use super::packet::{receive, send};
use super::protocol::{PacketError, Reply, Request, Stats, Status, VERSION, decode, encode};
use crate::machine::supervisor::{Connector, Controller, Killer, Supervisor};
use crate::state::State;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after a client could not be accepted, for example because this process is out
/// of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often to look whether a client that waits is still there.
const CLIENT_CHECK: Duration = Duration::from_secs(1);

/// The maximum number of clients at a time.
const MAX_CLIENTS: usize = 256;

/// What the threads of the clients share.
#[derive(Debug)]
pub struct Shared {
    status: Mutex<Status>,
    connector: Connector,
    controller: Controller,
    killer: Killer,
    events: Sender<Event>,
    ending: Ending,
    clients: AtomicUsize,
    started: Instant,
}

impl Shared {
    /// The initial state of a VM that `supervisor` runs.
    pub fn new(
        status: Status,
        supervisor: &Supervisor,
        connector: Connector,
        events: Sender<Event>,
        ending: Ending,
    ) -> Shared {
        Shared {
            status: Mutex::new(status),
            connector,
            controller: supervisor.controller(),
            killer: supervisor.killer(),
            events,
            ending,
            clients: AtomicUsize::new(0),
            started: Instant::now(),
        }
    }

    /// The state to read or change.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was decided while it started.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Ends the workspace as `stop` does, without waiting for it.
    pub fn stop(&self, reason: Option<String>) {
        let (reply, _) = mpsc::channel();
        self.request_stop(reason, reply);
    }

    /// `None` if the workspace has ended, which the client finds out, or if the client is gone.
    fn answer(
        &self,
        client: &OwnedFd,
        request: Request,
        attached: Option<OwnedFd>,
    ) -> Option<Reply> {
        let (reply, replies) = mpsc::channel();
        match request {
            Request::Status => return Some(Reply::Status(self.status().clone())),
            Request::Connect { port } => {
                return Some(match attached {
                    Some(stream) => self.connect(port, stream.into()),
                    None => refused("a stream is missing"),
                });
            }
            Request::Stop {
                force: false,
                reason,
            } => {
                if self.status().state == State::Starting {
                    return Some(refused("it is starting"));
                }
                let force = false;
                let event = Event::Stop {
                    force,
                    reason,
                    reply,
                };
                let _ = self.events.send(event);
            }
            Request::Stop {
                force: true,
                reason,
            } => self.request_stop(reason, reply),
            Request::Kill { reason, failed } => {
                self.ending.decide(killed(failed), reason.clone());
                let _ = self.events.send(Event::Kill {
                    reason,
                    failed,
                    reply,
                });
                // At once, also while the main thread waits for something else.
                self.killer.kill();
            }
            Request::Wait => {
                let _ = self.events.send(Event::Wait { reply });
            }
            Request::Stats => {
                return Some(match self.controller.stats() {
                    Ok(vm) => Reply::Stats(Stats {
                        vm,
                        uptime_millis: millis(self.started.elapsed()),
                    }),
                    Err(error) => refused(&error_chain(&error)),
                });
            }
            // A guest that boots has nothing to go on with.
            Request::Pause | Request::Resume | Request::Quarantine { .. }
                if self.status().state == State::Starting =>
            {
                return Some(refused("it is starting"));
            }
            Request::Pause => {
                let _ = self.events.send(Event::Pause { reply });
            }
            Request::Resume => {
                let _ = self.events.send(Event::Resume { reply });
            }
            Request::Quarantine { reason } => {
                let _ = self.events.send(Event::Quarantine { reason, reply });
            }
        }
        loop {
            match replies.recv_timeout(CLIENT_CHECK) {
                Ok(reply) => return Some(reply),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if is_gone(client) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn request_stop(&self, reason: Option<String>, reply: Sender<Reply>) {
        // Under the lock: whoever changes the state looks at the decision afterwards.
        let status = self.status();
        let starting = status.state == State::Starting;
        if starting {
            self.ending.decide(State::Stopped, reason.clone());
        }
        drop(status);
        let force = true;
        let event = Event::Stop {
            force,
            reason,
            reply,
        };
        let _ = self.events.send(event);
        if starting {
            // There is nothing to shut down yet, and the main thread waits for the guest.
            self.killer.kill();
        }
    }

    fn connect(&self, port: u32, stream: UnixStream) -> Reply {
        let state = self.status().state;
        if state != State::Running {
            return refused(&format!("it is {state}"));
        }
        match self.connector.connect(port, stream) {
            Ok(()) => Reply::Connected,
            Err(_) => refused("its VM has ended"),
        }
    }
}

/// Whether a client has closed its end.
fn is_gone(client: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(client, PollFlags::RDHUP)];
    let now = Timespec::default();
    poll(&mut fds, Some(&now)).is_ok()
        && fds[0]
            .revents()
            .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// The state of a workspace that was killed.
pub fn killed(failed: bool) -> State {
    match failed {
        true => State::Failed,
        false => State::Stopped,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn refused(message: &str) -> Reply {
    Reply::Refused {
        message: message.to_owned(),
    }
}

/// Listens on `path`, which must not exist, and serves clients on threads of their own.
///
/// # Errors
/// When the socket or its thread cannot be created.
pub fn serve(path: &Path, shared: Arc<Shared>) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 128)?;
    thread::Builder::new()
        .name("listener".into())
        .spawn(move || accept_forever(&socket, &shared))
        .map(drop)
}

fn accept_forever(socket: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        let accepted = accept_with(socket, SocketFlags::CLOEXEC);
        let served = match accepted {
            Ok(client) => start_client(client, shared),
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = served {
            tracing::warn!(%error, "cannot serve a client");
            thread::sleep(ACCEPT_RETRY);
        }
    }
}

fn start_client(client: OwnedFd, shared: &Arc<Shared>) -> io::Result<()> {
    let ours = getuid();
    let uid = socket_peercred(&client)?.uid;
    // The directory of the socket admits no others; this is the second lock of the door.
    if uid != ours && !uid.is_root() {
        return Ok(());
    }
    set_socket_timeout(&client, Timeout::Recv, Some(REQUEST_TIMEOUT))?;
    if shared.clients.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
        shared.clients.fetch_sub(1, Ordering::SeqCst);
        let _ = reply(&client, VERSION, &refused("too many clients"));
        return Ok(());
    }
    let serving = Arc::clone(shared);
    let started = thread::Builder::new().name("client".into()).spawn(move || {
        serve_client(&client, &serving);
        serving.clients.fetch_sub(1, Ordering::SeqCst);
    });
    if started.is_err() {
        shared.clients.fetch_sub(1, Ordering::SeqCst);
    }
    started.map(drop)
}

/// Answers one request. A client that is gone needs no answer.
fn serve_client(client: &OwnedFd, shared: &Shared) {
    let Ok(Some((packet, attached))) = receive(client) else {
        return;
    };
    let (version, answer) = match decode(&packet) {
        Ok((version, request)) => (version, shared.answer(client, request, attached)),
        Err(error @ PacketError::Version(version)) => (version, Some(refused(&error.to_string()))),
        Err(error) => (VERSION, Some(refused(&error.to_string()))),
    };
    if let Some(answer) = answer {
        let _ = reply(client, version, &answer);
    }
}

fn reply(client: &OwnedFd, version: u32, answer: &Reply) -> io::Result<()> {
    let packet = encode(answer, version).map_err(io::Error::other)?;
    send(client, &packet, None)
}
