//! The resolver of the guest: passes queries for names to the host, each on a stream of its own.
//!
//! It listens where `/etc/resolv.conf` says, over UDP and TCP. A stream to the host carries queries
//! as DNS over TCP does, so a connection is passed on as it is, and a datagram becomes one message.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use microagent_proto::agent::DNS_PORT;

use crate::stream::Stream;
use crate::vsock::connect_to_host;

const PORT: u16 = 53;

/// The maximum number of queries and connections that are served at once. Queries beyond it are
/// dropped, and programs repeat them.
const MAX_SERVED: usize = 64;

/// Stacks of threads that only copy.
const STACK: usize = 64 << 10;

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(30);

/// The length of a DNS message's header.
const HEADER: usize = 12;
/// The longest answer to a datagram without EDNS (RFC 1035 section 2.3.4).
const UDP_LIMIT: usize = 512;
/// The type of the EDNS record (RFC 6891 section 6.1.2).
const OPT: u16 = 41;

/// Listens on port 53 of `address`.
pub fn start(address: Ipv4Addr) -> io::Result<()> {
    let datagrams = Arc::new(UdpSocket::bind((address, PORT))?);
    let connections = TcpListener::bind((address, PORT))?;
    let served = Served::default();
    let also = served.clone();
    spawn("dns-udp", move || serve_datagrams(&datagrams, &served))?;
    spawn("dns-tcp", move || serve_connections(&connections, &also))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK);
    thread.spawn(body).map(drop)
}

/// How many are served.
#[derive(Debug, Clone, Default)]
struct Served(Arc<AtomicUsize>);

/// One of them.
struct Place(Served);

impl Served {
    fn enter(&self) -> Option<Place> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        (before < MAX_SERVED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve_datagrams(socket: &Arc<UdpSocket>, served: &Served) {
    let mut query = vec![0; usize::from(u16::MAX)];
    loop {
        // An error is that of an earlier answer.
        let Ok((length, client)) = socket.recv_from(&mut query) else {
            continue;
        };
        let Some(place) = served.enter() else {
            continue;
        };
        let query = query.get(..length).unwrap_or_default().to_vec();
        let socket = Arc::clone(socket);
        // Without threads there are no answers; the client repeats its query.
        let _ = spawn("dns-query", move || {
            let _place = place;
            let _ = answer_datagram(&socket, &query, client);
        });
    }
}

fn answer_datagram(socket: &UdpSocket, query: &[u8], client: SocketAddr) -> io::Result<()> {
    let mut host = connect_to_host(DNS_PORT)?;
    let answer = ask(&mut host, query)?;
    let answer = match answer.len() > udp_limit(query) {
        true => truncated(&answer),
        false => answer,
    };
    socket.send_to(&answer, client).map(drop)
}

/// Sends one query and receives its answer.
fn ask(host: &mut (impl Read + Write), query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    host.write_all(&[&length.to_be_bytes(), query].concat())?;
    let mut length = [0; 2];
    host.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    host.read_exact(&mut answer)?;
    Ok(answer)
}

/// The end of the only question of a message.
fn question_end(message: &[u8]) -> Option<usize> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let label = usize::from(*message.get(at)?);
        at += 1;
        match label {
            // Type and class follow.
            0 => return Some(at + 4).filter(|&end| end <= message.len()),
            1..64 => at += label,
            _ => return None,
        }
    }
}

/// The longest datagram that the sender of a query accepts (RFC 6891 section 6.2.3).
fn udp_limit(query: &[u8]) -> usize {
    let edns = || {
        let record = query.get(question_end(query)?..)?;
        // Its name is the root. Other records that queries have come after it.
        let kind = u16::from_be_bytes(*record.get(1..)?.first_chunk()?);
        let size = u16::from_be_bytes(*record.get(3..)?.first_chunk()?);
        (record.first() == Some(&0) && kind == OPT).then_some(size)
    };
    edns().map_or(UDP_LIMIT, |size| UDP_LIMIT.max(size.into()))
}

/// The same answer without records, and marked so that the client asks again over TCP (RFC 1035
/// section 4.1.1).
fn truncated(answer: &[u8]) -> Vec<u8> {
    const TC: u8 = 2;
    let end = question_end(answer).unwrap_or(HEADER);
    let mut short = answer.get(..end).unwrap_or_default().to_vec();
    if let Some(header) = short.first_chunk_mut::<HEADER>() {
        header[2] |= TC;
        header[6..].fill(0);
        if end == HEADER {
            header[4..6].fill(0);
        }
    }
    short
}

fn serve_connections(listener: &TcpListener, served: &Served) {
    for client in listener.incoming() {
        let (Ok(client), Some(place)) = (client, served.enter()) else {
            continue;
        };
        let _ = spawn("dns-connection", move || {
            let _place = place;
            let _ = pass_on(&client);
        });
    }
}

/// Passes a connection on to the host.
fn pass_on(client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(IDLE))?;
    let mut host = connect_to_host(DNS_PORT)?;
    let mut answers = Stream::from(host.as_fd().try_clone_to_owned()?);
    let to_client = client.try_clone()?;
    let copying = thread::Builder::new().stack_size(STACK).spawn(move || {
        let _ = io::copy(&mut answers, &mut &to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    })?;
    let _ = io::copy(&mut &*client, &mut host);
    // The host closes its side once it has answered what it has.
    let _ = rustix::net::shutdown(host.as_fd(), rustix::net::Shutdown::Write);
    let _ = copying.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a.example`, type A, with these counts, and a record after it.
    fn message(counts: [u8; 4], record: &[u8]) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0];
        message.extend(counts.iter().flat_map(|&count| [0, count]));
        message.extend(b"\x01a\x07example\x00\x00\x01\x00\x01");
        message.extend(record);
        message
    }

    #[test]
    fn the_longest_answer_is_the_one_that_the_query_allows() {
        let plain = message([1, 0, 0, 0], b"");
        assert_eq!(udp_limit(&plain), 512);
        // The record of `dig +bufsize=1232`.
        let edns = message(
            [1, 0, 0, 1],
            b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00",
        );
        assert_eq!(udp_limit(&edns), 1232);
        let small = message(
            [1, 0, 0, 1],
            b"\x00\x00\x29\x00\x10\x00\x00\x00\x00\x00\x00",
        );
        assert_eq!(udp_limit(&small), 512);
        for length in 0..edns.len() {
            udp_limit(&edns[..length]);
        }
        assert_eq!(udp_limit(&[0xff; 64]), 512);
    }

    #[test]
    fn a_long_answer_keeps_its_question_only() {
        let answer = message([1, 9, 2, 1], &[7; 600]);
        let mut expected = message([1, 0, 0, 0], b"");
        expected[2] |= 2;
        assert_eq!(truncated(&answer), expected);
        assert_eq!(truncated(&[1; 700]).len(), HEADER);
        assert_eq!(truncated(&[]), b"");
    }

    #[test]
    fn an_answer_belongs_to_its_query() {
        let (mut host, mut guest) = std::os::unix::net::UnixStream::pair().unwrap();
        let asking = thread::spawn(move || ask(&mut guest, b"query"));
        let mut query = [0; 7];
        host.read_exact(&mut query).unwrap();
        assert_eq!(&query, b"\x00\x05query");
        host.write_all(b"\x00\x06answer").unwrap();
        assert_eq!(asking.join().unwrap().unwrap(), b"answer");
    }

    #[test]
    fn places_are_given_back() {
        let served = Served::default();
        let places: Vec<_> = (0..MAX_SERVED).map(|_| served.enter().unwrap()).collect();
        assert!(served.enter().is_none());
        drop(places);
        assert!(served.enter().is_some());
    }
}
