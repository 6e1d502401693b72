//! The socket on which a shim listens. Each client has a thread, so that one which stalls disturbs
//! no other.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::error_chain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    shutdown, socket_with,
};
use rustix::process::getuid;

use super::message::Event;
use super::outcome::Ending;
use super::packet::{receive, send};
use super::protocol::{PacketError, Reply, Request, Stats, Status, VERSION, decode, encode};
use super::subscribers::Subscribers;
use crate::machine::places::Places;
use crate::machine::supervisor::{Connector, Controller, Killer, Supervisor};
use crate::network::Connected;
use crate::spec::Forward;
use crate::state::State;

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after a client could not be accepted, for example because this process is out
/// of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often to look whether a client that waits is still there.
const CLIENT_CHECK: Duration = Duration::from_secs(1);

/// How long the answers of the end may take, and how often to look whether they were sent.
const ANSWER_TIME: Duration = Duration::from_millis(500);
const CLIENTS_CHECK: Duration = Duration::from_millis(1);

/// The maximum number of clients at a time.
const MAX_CLIENTS: usize = 256;

/// What the threads of the clients share.
#[derive(Debug)]
pub struct Shared {
    status: Mutex<Status>,
    connector: Connector,
    /// For clients: their streams are the use of the workspace.
    sessions: Connector,
    controller: Controller,
    killer: Killer,
    events: Sender<Event>,
    ending: Ending,
    subscribers: Subscribers,
    clients: Places,
    started: Instant,
    network: OnceLock<Connected>,
}

impl Shared {
    /// The initial state of a VM that `supervisor` runs. The first connector is for this process, the
    /// other one for clients.
    pub fn new(
        status: Status,
        supervisor: &Supervisor,
        (connector, sessions): (Connector, Connector),
        events: Sender<Event>,
        ending: Ending,
        subscribers: Subscribers,
    ) -> Shared {
        Shared {
            status: Mutex::new(status),
            connector,
            sessions,
            controller: supervisor.controller(),
            killer: supervisor.killer(),
            events,
            ending,
            subscribers,
            clients: Places::new(MAX_CLIENTS),
            started: Instant::now(),
            network: OnceLock::new(),
        }
    }

    /// The state to read or change.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens streams to the guest.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Asks the supervisor of the VM.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Kills the VM.
    pub fn killer(&self) -> &Killer {
        &self.killer
    }

    /// Sends events to the main thread.
    pub fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// The time since the start, in milliseconds.
    pub fn uptime_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until the clients have their answers, before the process ends; one that stalls is not
    /// waited for.
    pub fn wait_for_clients(&self) {
        let deadline = Instant::now() + ANSWER_TIME;
        while self.clients.taken() > 0 && Instant::now() < deadline {
            thread::sleep(CLIENTS_CHECK);
        }
    }

    /// What was decided while it started.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Sets the network of the VM, once.
    pub fn set_network(&self, network: Connected) {
        let mut status = self.status();
        status.published = network.published();
        let addresses = network.addresses().iter();
        status.addresses = addresses
            .map(|own| format!("{}/{}", own.address, own.prefix))
            .collect();
        let _ = self.network.set(network);
    }

    /// The network of the VM, when the guest is configured.
    pub fn network(&self) -> Option<&Connected> {
        self.network.get()
    }

    fn publish(&self, forward: &Forward) -> Reply {
        let mut status = self.status();
        let state = status.state;
        let (Some(network), State::Running) = (self.network(), state) else {
            return Reply::is(state);
        };
        match network.publish(forward, self.sessions.clone()) {
            Ok(forward) => {
                status.published = network.published();
                Reply::Published(forward)
            }
            Err(error) => Reply::refused(error_chain(&error)),
        }
    }

    fn unpublish(&self, forward: &Forward) -> Reply {
        let mut status = self.status();
        match self.network() {
            Some(network) if network.unpublish(forward) => {
                status.published = network.published();
                Reply::Done
            }
            _ => Reply::refused("this port is not published"),
        }
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
        version: u32,
        request: Request,
        attached: Option<OwnedFd>,
    ) -> Option<Reply> {
        let (reply, replies) = mpsc::channel();
        match request {
            Request::Status => {
                let mut status = self.status().clone();
                if let Some(network) = self.network() {
                    let names = network.refused_names();
                    status.refused_names = names.refused;
                    status.refused_name_counts = names.refused_counts;
                }
                return Some(Reply::Status(Box::new(status)));
            }
            Request::Connect { port, probe } => {
                return Some(match attached {
                    Some(stream) => self.connect(port, probe, stream.into()),
                    None => Reply::refused("a stream is missing"),
                });
            }
            Request::Stop {
                force: false,
                reason,
            } => {
                if self.status().state == State::Starting {
                    return Some(Reply::is(State::Starting));
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
                let state = match failed {
                    true => State::Failed,
                    false => State::Stopped,
                };
                self.ending.decide(state, reason.clone());
                let _ = self.events.send(Event::Kill {
                    state,
                    reason,
                    reply,
                });
                // At once, also while the main thread waits for something else.
                self.killer.kill();
            }
            Request::Subscribe => return self.tell_events(client, version),
            Request::Wait => {
                let _ = self.events.send(Event::Wait { reply });
            }
            Request::Stats if self.status().state == State::Suspended => {
                return Some(Reply::is(State::Suspended));
            }
            Request::Stats => {
                return Some(match self.controller.stats() {
                    Ok(vm) => Reply::Stats(Box::new(Stats {
                        vm,
                        uptime_millis: self.uptime_millis(),
                    })),
                    Err(error) => Reply::refused(error_chain(&error)),
                });
            }
            Request::Publish(forward) => return Some(self.publish(&forward)),
            Request::Unpublish(forward) => return Some(self.unpublish(&forward)),
            // A guest that boots has nothing to go on with.
            Request::Pause
            | Request::Resume
            | Request::Quarantine { .. }
            | Request::Snapshot { .. }
                if self.status().state == State::Starting =>
            {
                return Some(Reply::is(State::Starting));
            }
            Request::Pause => {
                let _ = self.events.send(Event::Pause { reply });
            }
            Request::Resume => {
                let _ = self.events.send(Event::Resume { reply });
            }
            Request::Snapshot { directory } => {
                let _ = self.events.send(Event::Snapshot { directory, reply });
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

    /// Sends a client the events until the end, or until it is gone or too far behind.
    fn tell_events(&self, client: &OwnedFd, version: u32) -> Option<Reply> {
        set_socket_timeout(client, Timeout::Send, Some(REQUEST_TIMEOUT)).ok()?;
        let subscription = self.subscribers.subscribe();
        loop {
            match subscription.events.recv_timeout(CLIENT_CHECK) {
                Ok(event) => reply(client, version, &Reply::Event(Box::new(event))).ok()?,
                Err(RecvTimeoutError::Timeout) if is_gone(client) => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if subscription.is_complete() => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Reply::refused("events were missed: the client is too slow"));
                }
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

    fn connect(&self, port: u32, probe: bool, stream: UnixStream) -> Reply {
        let state = self.status().state;
        if state == State::Suspended && !probe {
            let _ = self.events.send(Event::Wake);
            // As of one that boots: the client tries again.
            return Reply::is(State::Starting);
        }
        if state != State::Running {
            return Reply::is(state);
        }
        let connector = match probe {
            true => &self.connector,
            false => &self.sessions,
        };
        match connector.connect(port, stream) {
            Ok(()) => Reply::Connected,
            Err(_) => Reply::refused("its VM has ended"),
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

/// A socket that is listened on. When it is dropped, nobody can connect any more; who has goes on.
#[derive(Debug)]
pub struct Listening(Arc<OwnedFd>);

impl Drop for Listening {
    fn drop(&mut self) {
        // Wakes the thread that accepts (unix(7), shutdown(2)): it gets EINVAL.
        let _ = shutdown(&*self.0, Shutdown::Both);
    }
}

/// Listens on `path`, which must not exist, and serves clients on threads of their own.
///
/// # Errors
/// When the socket or its thread cannot be created.
pub fn serve(path: &Path, shared: Arc<Shared>) -> io::Result<Listening> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 128)?;
    let socket = Arc::new(socket);
    let listening = Listening(Arc::clone(&socket));
    thread::Builder::new()
        .name("listener".into())
        .spawn(move || accept_until_shutdown(&socket, &shared))?;
    Ok(listening)
}

fn accept_until_shutdown(socket: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        let accepted = accept_with(socket, SocketFlags::CLOEXEC);
        let served = match accepted {
            Ok(client) => start_client(client, shared),
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(()),
            Err(Errno::INVAL) => return,
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
    let Some(place) = shared.clients.take() else {
        let _ = reply(&client, VERSION, &Reply::refused("too many clients"));
        return Ok(());
    };
    let serving = Arc::clone(shared);
    let started = thread::Builder::new().name("client".into()).spawn(move || {
        serve_client(&client, &serving);
        drop(place);
    });
    started.map(drop)
}

/// Answers one request. A client that is gone needs no answer.
fn serve_client(client: &OwnedFd, shared: &Shared) {
    let Ok(Some((packet, attached))) = receive(client) else {
        return;
    };
    let (version, answer) = match decode(&packet) {
        Ok((version, request)) => {
            let answer = shared.answer(client, version, request, attached);
            (version, answer)
        }
        Err(error @ PacketError::Version(version)) => {
            (version, Some(Reply::refused(error.to_string())))
        }
        Err(error) => (VERSION, Some(Reply::refused(error.to_string()))),
    };
    if let Some(answer) = answer {
        let _ = reply(client, version, &answer);
    }
}

fn reply(client: &OwnedFd, version: u32, answer: &Reply) -> io::Result<()> {
    let packet = encode(answer, version).map_err(io::Error::other)?;
    send(client, &packet, None)
}
