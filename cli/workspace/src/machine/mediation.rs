//! Mediation: a vsock port of the host (CID 2) on which the guest reaches one TCP server.
//!
//! The bytes are passed through as they are. The supervisor of the VM passes each of the guest's
//! streams to this process, which connects to the server: the supervisor itself needs no network.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

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

/// What to call with the guest's streams ([`super::supervisor::Supervisor::on_connection`]): each
/// is connected to `target`. `changed` is called when the server cannot be reached any more, with
/// the reason, and with `None` when it can again.
pub fn acceptor(
    target: String,
    changed: impl FnMut(Option<String>) + Send + 'static,
) -> impl FnMut(u32, UnixStream) + Send + 'static {
    let shared = Arc::new(Shared {
        target,
        connections: AtomicUsize::new(0),
        reached: Mutex::new(Reached {
            is: true,
            changed: Box::new(changed),
        }),
    });
    move |_, stream| {
        if shared.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!("a mediation connection is closed: {MAX_CONNECTIONS} are open");
            return;
        }
        let serving = Arc::clone(&shared);
        let started = thread::Builder::new()
            .name("mediation".into())
            .stack_size(STACK)
            .spawn(move || {
                serving.serve(stream);
                serving.connections.fetch_sub(1, Ordering::SeqCst);
            });
        if let Err(error) = started {
            shared.connections.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "a mediation connection is closed");
        }
    }
}

/// What the connections share.
struct Shared {
    target: String,
    connections: AtomicUsize,
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
        let mut accept = acceptor(target, |_| panic!("it can be reached"));
        let mut open = Vec::new();
        for number in 0..MAX_CONNECTIONS {
            let (mut guest, theirs) = UnixStream::pair().unwrap();
            accept(1, theirs);
            let (mut server, _) = listener.accept().unwrap();
            guest.write_all(&[number as u8]).unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number as u8]);
            open.push((guest, server));
        }
        let (mut guest, theirs) = UnixStream::pair().unwrap();
        accept(1, theirs);
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_loss_of_the_server_and_its_return_are_told_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (sender, changes) = mpsc::channel();
        let mut accept = acceptor(address.to_string(), move |change| {
            sender.send(change).unwrap();
        });
        assert!(probe(&address.to_string()).is_err());
        for _ in 0..2 {
            let (mut guest, theirs) = UnixStream::pair().unwrap();
            accept(1, theirs);
            assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        }
        let refused = changes.recv().unwrap().unwrap();
        assert!(refused.contains("refused"), "{refused}");
        assert!(changes.try_recv().is_err());

        let listener = TcpListener::bind(address).unwrap();
        let (_guest, theirs) = UnixStream::pair().unwrap();
        accept(1, theirs);
        let _server = listener.accept().unwrap();
        assert_eq!(changes.recv().unwrap(), None);
    }
}
