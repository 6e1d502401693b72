//! Copies bytes between a stream of the guest and a TCP connection until both have ended.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use microagent_proto::copy;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// The stack of a thread that copies, in bytes: its buffer is on the heap.
pub(crate) const STACK: usize = 128 << 10;

/// Copies both ways. The end of one direction is passed on and leaves the other open, so that a
/// request can be ended before its answer; an error, or a guest that has closed the stream
/// altogether, ends both.
///
/// # Errors
/// When the process is out of descriptors or threads.
pub(crate) fn relay(guest: UnixStream, server: TcpStream) -> io::Result<()> {
    let (from_guest, to_server) = (guest.try_clone()?, server.try_clone()?);
    let up = thread::Builder::new()
        .name("relay".into())
        .stack_size(STACK)
        .spawn(move || {
            match copy(&from_guest, &to_server) {
                Ok(()) => {
                    let _ = to_server.shutdown(Shutdown::Write);
                    wait_until_closed(&from_guest);
                }
                Err(_) => {
                    let _ = from_guest.shutdown(Shutdown::Both);
                }
            }
            // The other direction may wait for a server that says nothing.
            let _ = to_server.shutdown(Shutdown::Both);
        })?;
    match copy(&server, &guest) {
        Ok(()) => {
            let _ = guest.shutdown(Shutdown::Write);
        }
        Err(_) => {
            let _ = guest.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }
    let _ = up.join();
    Ok(())
}

/// Waits until both directions of the stream have ended.
fn wait_until_closed(stream: &UnixStream) {
    loop {
        // POLLHUP is always reported (poll(2)).
        let mut fds = [PollFd::new(stream, PollFlags::empty())];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// The guest's end, the server's, and the relay between them.
    fn relayed() -> (UnixStream, TcpStream, thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (guest, ours) = UnixStream::pair().unwrap();
        (guest, server, thread::spawn(move || relay(ours, client)))
    }

    #[test]
    fn the_end_of_a_request_leaves_the_answer_open() {
        let (mut guest, mut server, relay) = relayed();
        let request: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = request.clone();
        let mut writer = guest.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == request);
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = Vec::new();
        guest.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
        drop(guest);
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn the_end_of_the_answer_leaves_the_request_open() {
        let (mut guest, mut server, relay) = relayed();
        server.write_all(b"hello").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        let mut greeting = Vec::new();
        guest.read_to_end(&mut greeting).unwrap();
        assert_eq!(greeting, b"hello");
        guest.write_all(b"late").unwrap();
        drop(guest);
        let mut late = Vec::new();
        server.read_to_end(&mut late).unwrap();
        assert_eq!(late, b"late");
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn a_guest_that_is_gone_ends_it_though_the_server_stays() {
        let (guest, mut server, relay) = relayed();
        drop(guest);
        relay.join().unwrap().unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }
}
