//! Publishing: TCP ports of the host that lead to the guest.
//!
//! Each connection is a session with the agent, which connects it to a server on the guest's loopback
//! interface. So it works in every network mode, for servers that listen on the loopback only too.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use microagent_proto::agent::AGENT_PORT;
use rustix::event::{PollFd, PollFlags, poll};

use super::NetworkError;
use crate::machine::places::{Place, Places};
use crate::machine::probe;
use crate::machine::relay::{STACK, relay};
use crate::machine::supervisor::Connector;
use crate::spec::Forward;

/// The maximum number of connections to one VM. Further ones wait. Fewer than the VM's vsock device
/// can have, so that there is room for commands, names and mediation.
pub const MAX_CONNECTIONS: usize = 256;

/// How long the guest may take to accept a connection: its agent waits for the server for half of it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait after a connection could not be accepted: this process is out of descriptors, or
/// the VM has [`MAX_CONNECTIONS`].
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

impl Forward {
    /// The address to listen on.
    ///
    /// # Errors
    /// When it is not an address.
    pub fn address(&self) -> Result<SocketAddr, NetworkError> {
        let host = match &self.host {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(host) => host
                .parse()
                .map_err(|_| NetworkError::Address(host.clone()))?,
        };
        Ok(SocketAddr::new(host, self.host_port))
    }
}

/// As `--publish` has it.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:")?,
            Some(host) => write!(f, "{host}:")?,
            None => {}
        }
        write!(f, "{}:{}", self.host_port, self.guest_port)
    }
}

/// A port of the host that is taken, and does not lead anywhere yet: connections to it wait.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    forward: Forward,
}

impl Bound {
    /// Takes the port. Port 0 takes any; [`forward`](Self::forward) has it.
    ///
    /// # Errors
    /// [`NetworkError::Taken`].
    pub fn new(forward: &Forward) -> Result<Bound, NetworkError> {
        let address = forward.address()?;
        let failed = |source| NetworkError::Taken { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        // A connection that is gone before it is accepted must not block the thread.
        listener.set_nonblocking(true).map_err(failed)?;
        let mut forward = forward.clone();
        forward.host_port = listener.local_addr().map_err(failed)?.port();
        Ok(Bound { listener, forward })
    }

    /// All of them, or none.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn all(forwards: &[Forward]) -> Result<Vec<Bound>, NetworkError> {
        forwards.iter().map(Bound::new).collect()
    }

    /// Connects it to the guest. `places` are those of its VM.
    ///
    /// # Errors
    /// When this process is out of descriptors or threads.
    pub fn serve(self, connector: Connector, places: Places) -> Result<Published, NetworkError> {
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| NetworkError::io("create a pipe")(error.into()))?;
        let Bound { listener, forward } = self;
        let serving = Serving {
            connector,
            guest_port: forward.guest_port,
            places,
        };
        let serving = Arc::new(serving);
        let thread = thread::Builder::new()
            .name("publish".into())
            .stack_size(STACK)
            .spawn(move || {
                serving.accept(&listener, &stopped);
                listener
            })
            .map_err(NetworkError::io("start a thread"))?;
        Ok(Published {
            forward,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The socket, which is readable when a connection waits.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }
}

/// A port of the host that leads to the guest. When it is dropped, the port is free again;
/// connections go on.
#[derive(Debug)]
pub struct Published {
    forward: Forward,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<TcpListener>>,
}

impl Published {
    /// What it connects.
    pub fn forward(&self) -> &Forward {
        &self.forward
    }

    /// Takes the port from the guest, and keeps it. `None` if the thread that served it has panicked.
    pub fn release(mut self) -> Option<Bound> {
        Some(Bound {
            listener: self.stop()?,
            forward: self.forward.clone(),
        })
    }

    fn stop(&mut self) -> Option<TcpListener> {
        drop(self.stop.take());
        self.thread.take()?.join().ok()
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        drop(Published::stop(self));
    }
}

struct Serving {
    connector: Connector,
    guest_port: u16,
    places: Places,
}

impl Serving {
    fn accept(self: &Arc<Serving>, listener: &TcpListener, stopped: &OwnedFd) {
        loop {
            let [wanted, stop] = readable([listener.as_fd(), stopped.as_fd()]);
            if stop {
                return;
            }
            if !wanted {
                continue;
            }
            let accepted = match self.places.take() {
                None => Err(io::ErrorKind::ResourceBusy.into()),
                Some(place) => listener
                    .accept()
                    .and_then(|(client, _)| self.start(client, place)),
            };
            match accepted {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => thread::sleep(ACCEPT_RETRY),
            }
        }
    }

    fn start(self: &Arc<Serving>, client: TcpStream, place: Place) -> io::Result<()> {
        // Inherited from the listener on some systems, and not wanted.
        client.set_nonblocking(false)?;
        let _ = client.set_nodelay(true);
        let serving = Arc::clone(self);
        let started = thread::Builder::new()
            .name("published".into())
            .stack_size(STACK)
            .spawn(move || {
                serving.connect(client);
                drop(place);
            });
        started.map(drop)
    }

    /// A client that cannot be connected sees the end of the stream.
    fn connect(&self, client: TcpStream) {
        let dialed = (self
            .connector
            .open(AGENT_PORT)
            .map_err(probe::ProbeError::from))
        .and_then(|stream| probe::dial(stream, self.guest_port, DIAL_TIMEOUT));
        let relayed = match dialed {
            Ok(guest) => relay(guest, client).map_err(|error| error.to_string()),
            Err(error) => Err(microagent_proto::error_chain(&error)),
        };
        if let Err(error) = relayed {
            tracing::debug!(error, port = self.guest_port, "a connection is closed");
        }
    }
}

/// Waits until one of these is readable or closed.
fn readable(fds: [std::os::fd::BorrowedFd<'_>; 2]) -> [bool; 2] {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut polled, None) {
        Ok(_) => polled.map(|fd| !fd.revents().is_empty()),
        Err(_) => [false; 2],
    }
}
