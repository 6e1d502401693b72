//! Connects a session to a TCP server on the guest's loopback interface.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use microagent_proto::agent::{Failure, FailureKind, Reply};
use microagent_proto::copy;
use microagent_proto::frame::{FrameError, write_opening};

use crate::stream::Stream;

/// How long a server may take to accept. On the loopback interface the kernel does it at once, unless
/// the server's queue is full: then it tries again after 1, 2, 4, and 8 s.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often to look whether the host, which sends nothing more, still waits for an answer. Nothing
/// tells of its end: a socket that it has closed looks like one to which it sends no more.
const HOST_CHECK: Duration = Duration::from_secs(1);

/// Connects to `port` and passes bytes in both directions until both have ended. Returns a
/// [`Failure`] if nobody listens; no reply has been sent then.
///
/// # Errors
/// The session's stream failed.
pub fn dial(stream: &mut Stream, port: u16) -> Result<Result<(), Failure>, FrameError> {
    let server = match connect(port) {
        Ok(server) => server,
        Err(error) => {
            return Ok(Err(Failure {
                kind: FailureKind::System,
                message: format!("cannot connect to port {port} in the guest: {error}"),
            }));
        }
    };
    let to_server = server.try_clone()?;
    let mut from_host = Stream::from(stream.as_fd().try_clone_to_owned()?);
    write_opening(stream, &Reply::Dialed)?;
    let (answered, answer) = mpsc::channel::<()>();
    let forward = thread::Builder::new().name("dial".into()).spawn(move || {
        // Ignored: the server may have closed it.
        let _ = copy(&mut from_host, &to_server);
        let _ = to_server.shutdown(Shutdown::Write);
        // The host may only have ended what it sends, or be gone: then nobody waits for an answer.
        while answer.recv_timeout(HOST_CHECK) == Err(RecvTimeoutError::Timeout) {
            if !from_host.is_read() {
                let _ = to_server.shutdown(Shutdown::Both);
                break;
            }
        }
    });
    let forward = forward?;
    let whole = copy(&server, &mut *stream).is_ok();
    drop(answered);
    // The host sees the end of what the server sends. If the host is gone, the server sees it too.
    let _ = rustix::net::shutdown(stream.as_fd(), rustix::net::Shutdown::Write);
    if !whole {
        let _ = server.shutdown(Shutdown::Both);
    }
    // It ends when the host has closed its side.
    let _ = forward.join();
    Ok(Ok(()))
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, TIMEOUT).or_else(|error| match error.kind() {
        io::ErrorKind::TimedOut => Err(error),
        _ => TcpStream::connect_timeout(&v6, TIMEOUT).map_err(|_| error),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use microagent_proto::envelope::Program;
    use microagent_proto::frame::read_opening;

    use super::*;

    #[test]
    fn bytes_pass_in_both_directions_and_each_end_is_passed_on() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = String::new();
            client.read_to_string(&mut request).unwrap();
            client.write_all(b"answer to ").unwrap();
            client.write_all(request.as_bytes()).unwrap();
        });
        let (mut host, guest) = UnixStream::pair().unwrap();
        let dialing = thread::spawn(move || {
            let mut stream = Stream::from(OwnedFd::from(guest));
            dial(&mut stream, port).unwrap()
        });
        let reply: Reply =
            read_opening(&mut host, Program::CommandLine, Program::Agent, "a reply").unwrap();
        assert_eq!(reply, Reply::Dialed);
        host.write_all(b"request").unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        host.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer to request");
        assert_eq!(dialing.join().unwrap(), Ok(()));
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_is_silent_is_left_when_the_host_is_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut host, guest) = UnixStream::pair().unwrap();
        let dialing = thread::spawn(move || {
            let mut stream = Stream::from(OwnedFd::from(guest));
            dial(&mut stream, port).unwrap()
        });
        let (mut client, _) = listener.accept().unwrap();
        let reply: Reply =
            read_opening(&mut host, Program::CommandLine, Program::Agent, "a reply").unwrap();
        assert_eq!(reply, Reply::Dialed);
        drop(host);
        assert_eq!(dialing.join().unwrap(), Ok(()));
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_port_on_which_nobody_listens_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (_host, guest) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(OwnedFd::from(guest));
        let failure = dial(&mut stream, port).unwrap().unwrap_err();
        assert_eq!(
            failure.message,
            format!(
                "cannot connect to port {port} in the guest: Connection refused (os error 111)"
            )
        );
    }
}
