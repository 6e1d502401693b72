//! Mediation: a vsock port of the host (CID 2) on which the guest reaches one TCP server.
//!
//! The bytes are passed through as they are. The supervisor of the VM passes each of the guest's
//! streams to this process, which connects to the server: the supervisor itself needs no network.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::places::Places;
use super::relay::{STACK, relay};

/// The maximum number of connections at a time. Further ones are closed.
pub const MAX_CONNECTIONS: usize = 128;

/// How long an address of the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The server of a required mediation cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the mediation target {target} cannot be reached")]
pub struct Unreachable {
    /// The server, `HOST:PORT`.
    pub target: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Unreachable {
    /// The way out.
    pub fn remediation(&self) -> String {
        format!(
            "start the server on {}, or make it optional: --mediation-optional",
            self.target
        )
    }
}

/// Connects to the server and closes the connection.
///
/// # Errors
/// [`Unreachable`].
pub fn probe(target: &str) -> Result<(), Unreachable> {
    match connect(target) {
        Ok(_) => Ok(()),
        Err(source) => Err(Unreachable {
            target: target.to_owned(),
            source,
        }),
    }
}

/// The mediation of one VM.
pub struct Mediator(Arc<Shared>);

impl Mediator {
    /// Connects the guest to `target`. `changed` is called when the server cannot be reached any more,
    /// with the reason, and with `None` when it can again.
    pub fn new(target: String, changed: impl FnMut(Option<String>) + Send + 'static) -> Mediator {
        Mediator(Arc::new(Shared {
            target,
            reached: Mutex::new(Reached {
                is: true,
                changed: Box::new(changed),
            }),
        }))
    }

    /// Probes the server every `interval`, as long as this process lives, so that its loss is noticed
    /// while the guest does not connect. It is left alone while `wanted` is false.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch(
        &self,
        interval: Duration,
        wanted: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        thread::Builder::new()
            .name("mediation-probe".into())
            .stack_size(STACK)
            .spawn(move || {
                loop {
                    thread::sleep(interval);
                    if wanted() {
                        shared.note(connect(&shared.target).err().map(|error| error.to_string()));
                    }
                }
            })
            .map(drop)
    }

    /// What to call with the guest's streams ([`super::services`]): each is connected to the server.
    pub fn acceptor(self) -> impl FnMut(UnixStream) + Send + 'static {
        let shared = self.0;
        let places = Places::new(MAX_CONNECTIONS);
        move |stream| {
            let Some(place) = places.take() else {
                tracing::warn!("a mediation connection is closed: {MAX_CONNECTIONS} are open");
                return;
            };
            let serving = Arc::clone(&shared);
            let started = thread::Builder::new()
                .name("mediation".into())
                .stack_size(STACK)
                .spawn(move || {
                    serving.serve(stream);
                    drop(place);
                });
            if let Err(error) = started {
                tracing::warn!(%error, "a mediation connection is closed");
            }
        }
    }
}

impl fmt::Debug for Mediator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mediator").field(&self.0.target).finish()
    }
}

/// What the connections share.
struct Shared {
    target: String,
    reached: Mutex<Reached>,
}

/// Whether the last attempt reached the server.
struct Reached {
    is: bool,
    changed: Box<dyn FnMut(Option<String>) + Send>,
}

impl Shared {
    fn serve(&self, guest: UnixStream) {
        match connect(&self.target) {
            Ok(server) => {
                self.note(None);
                if let Err(error) = relay(guest, server) {
                    tracing::warn!(%error, "a mediation connection is closed");
                }
            }
            Err(error) => self.note(Some(error.to_string())),
        }
    }

    fn note(&self, failed: Option<String>) {
        // Under the lock, so that changes are reported in order.
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.is == failed.is_some() {
            reached.is = failed.is_none();
            (reached.changed)(failed);
        }
    }
}

/// Connects to the first address of `target` that accepts.
fn connect(target: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn connections_beyond_the_limit_are_closed_and_others_work() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        probe(&target).unwrap();
        let _ = listener.accept().unwrap();
        let mut accept = Mediator::new(target, |_| panic!("it can be reached")).acceptor();
        let mut open = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            let (mut guest, theirs) = UnixStream::pair().unwrap();
            accept(theirs);
            let (mut server, _) = listener.accept().unwrap();
            guest.write_all(&[number as u8]).unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number as u8]);
            open.push((guest, server));
        }
        let (mut guest, theirs) = UnixStream::pair().unwrap();
        accept(theirs);
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_loss_of_the_server_and_its_return_are_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (sender, changes) = mpsc::channel();
        let report = move |change| sender.send(change).unwrap();
        let mut accept = Mediator::new(address.to_string(), report).acceptor();
        assert!(probe(&address.to_string()).is_err());
        for _ in 0..2 {
            let (mut guest, theirs) = UnixStream::pair().unwrap();
            accept(theirs);
            assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        }
        let refused = changes.recv().unwrap().unwrap();
        assert!(refused.contains("refused"), "{refused}");
        assert!(changes.try_recv().is_err());

        let listener = TcpListener::bind(address).unwrap();
        let (_guest, theirs) = UnixStream::pair().unwrap();
        accept(theirs);
        let _server = listener.accept().unwrap();
        assert_eq!(changes.recv().unwrap(), None);
    }

    #[test]
    fn the_loss_is_found_out_while_the_guest_does_not_connect() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, changes) = mpsc::channel();
        let (ask, asked) = mpsc::sync_channel(0);
        let mediator = Mediator::new(address.to_string(), move |change| {
            sender.send(change).unwrap();
        });
        // A probe for each message, so that the test decides when the server is asked.
        let wanted = move || asked.recv().unwrap_or(false);
        mediator.watch(Duration::from_millis(1), wanted).unwrap();
        ask.send(true).unwrap();
        // Connect and close.
        let (mut probed, _) = listener.accept().unwrap();
        assert_eq!(probed.read(&mut [0]).unwrap(), 0);
        drop(listener);
        // Unwanted, then twice: the loss is told once.
        for wanted in [false, true, true, false] {
            ask.send(wanted).unwrap();
        }
        let refused = changes.recv().unwrap().unwrap();
        assert!(refused.contains("refused"), "{refused}");
        assert!(changes.try_recv().is_err());
        let _listener = TcpListener::bind(address).unwrap();
        ask.send(true).unwrap();
        assert_eq!(changes.recv().unwrap(), None);
    }
}
