//! Names for the guest: its queries are passed on to the host's servers (resolv.conf(5)), so that it
//! resolves what the host resolves, in every network mode.
//!
//! The agent connects to the host's [`DNS_PORT`](microagent_proto::agent::DNS_PORT), and the
//! supervisor passes the stream to this process. On it, queries and answers are framed as in DNS over
//! TCP. The guest is not trusted: what it sends is passed on only as the payload of a datagram or a
//! connection to the host's servers.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use microagent_egress::Policy;
use microagent_egress::dns::{Answerer, Decision, Forward, Response, Transport};
use microagent_proto::control::Pin;
use rustix::rand::{GetRandomFlags, getrandom};

use super::refusals::Refusals;
use crate::machine::places::Places;

/// Where the host lists its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

const PORT: u16 = 53;

/// The maximum number of streams that are served at once. The agent opens no more.
const MAX_STREAMS: usize = 64;

/// The maximum number of servers that are asked (`MAXNS` of resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// How long a server may take, and how often all are asked (resolv.conf(5) has 5 s and 2).
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// How long a stream may be silent.
const IDLE: Duration = Duration::from_secs(30);

/// The stack of a thread that serves a stream: its buffers are on the heap.
const STACK: usize = 128 << 10;

/// What the host says about its names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Its servers.
    pub servers: Vec<SocketAddr>,
    /// The domains in which short names are looked up.
    pub search: Vec<String>,
}

impl Hosts {
    /// Reads what the host says now; it changes when the host moves to another network.
    pub fn read() -> Hosts {
        let text = std::fs::read(Path::new(RESOLV_CONF)).unwrap_or_default();
        Hosts::parse(&text)
    }

    fn parse(text: &[u8]) -> Hosts {
        // A file that it does not understand names no server.
        let Ok(config) = resolv_conf::Config::parse(text) else {
            return Hosts::default();
        };
        let addresses = config.nameservers.iter().take(MAX_SERVERS);
        Hosts {
            servers: addresses
                .map(|server| SocketAddr::new(IpAddr::from(server), PORT))
                .collect(),
            search: (config.get_last_search_or_domain())
                .filter(|domain| is_domain(domain))
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// Whether the guest's `resolv.conf` can have it.
fn is_domain(domain: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    domain.len() < 256 && domain.bytes().all(plain)
}

/// Allows new connections of the guest to addresses; returns whether that was done.
type Pinner = Box<dyn Fn(Pin) -> bool + Send + Sync>;

/// Answers the queries of one guest.
pub struct Resolver {
    answerer: Answerer,
    refusals: Refusals,
    pin: Pinner,
    places: Places,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("answerer", &self.answerer)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// For a guest with this policy, or without one, which counts what it refuses in `refusals`.
    /// `pin` is called before the guest gets the addresses of a name.
    pub fn new(
        policy: Option<Policy>,
        refusals: Refusals,
        pin: impl Fn(Pin) -> bool + Send + Sync + 'static,
    ) -> Resolver {
        Resolver {
            answerer: Answerer::new(policy),
            refusals,
            pin: Box::new(pin),
            places: Places::new(MAX_STREAMS),
        }
    }

    /// What to call with the guest's streams to the resolver's port. It does not block.
    pub fn acceptor(self: Arc<Resolver>) -> impl FnMut(UnixStream) + Send + 'static {
        move |stream| {
            let Some(place) = self.places.take() else {
                tracing::warn!("a query for a name is refused: {MAX_STREAMS} are open");
                return;
            };
            let resolver = Arc::clone(&self);
            let thread = thread::Builder::new().name("dns".into()).stack_size(STACK);
            let started = thread.spawn(move || {
                let _place = place;
                // The guest has closed it, or sent nonsense.
                let _ = resolver.serve(stream);
            });
            if let Err(error) = started {
                tracing::warn!(%error, "a query for a name is refused");
            }
        }
    }

    /// Answers queries until the guest closes the stream.
    fn serve(&self, mut guest: UnixStream) -> io::Result<()> {
        guest.set_read_timeout(Some(IDLE))?;
        guest.set_write_timeout(Some(IDLE))?;
        loop {
            let query = receive(&mut guest)?;
            let answer = self.answer(&query, &Hosts::read().servers);
            self.refusals.report_names();
            send(&mut guest, &answer?)?;
        }
    }

    /// The answer of the first server that has one.
    fn answer(&self, query: &[u8], servers: &[SocketAddr]) -> io::Result<Vec<u8>> {
        let mut id = [0; 2];
        getrandom(&mut id[..], GetRandomFlags::empty())?;
        let id = u16::from_ne_bytes(id);
        let decision = (self.answerer).query(query, Transport::Tcp, id, &mut self.refusals.names());
        let forward = match decision {
            Decision::Respond(answer) => return Ok(answer),
            Decision::Forward(forward) => forward,
            Decision::Ignore => return Err(io::ErrorKind::InvalidData.into()),
        };
        for _ in 0..ATTEMPTS {
            for server in servers {
                match self.ask(&forward, *server) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => tracing::debug!(%error, %server, "no answer about a name"),
                }
            }
        }
        Ok(self.answerer.failure(&forward))
    }

    /// Asks one server.
    fn ask(&self, forward: &Forward, server: SocketAddr) -> io::Result<Vec<u8>> {
        match self.ask_by_datagram(forward, server)? {
            Some(answer) => Ok(answer),
            None => self.ask_by_connection(forward, server),
        }
    }

    /// `None` if it is to be asked over TCP.
    fn ask_by_datagram(
        &self,
        forward: &Forward,
        server: SocketAddr,
    ) -> io::Result<Option<Vec<u8>>> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        // A port of its own for each query, which the kernel chooses: a forged answer has to guess
        // it, and the number of the query.
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.send(&forward.message)?;
        let deadline = Instant::now() + TIMEOUT;
        let mut message = vec![0; usize::from(u16::MAX)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            let length = socket.recv(&mut message)?;
            match self.read(forward, &message[..length], Transport::Udp)? {
                Response::Answer { message, .. } => return Ok(Some(message)),
                Response::RetryOverTcp => return Ok(None),
                Response::Unrelated => {}
            }
        }
    }

    fn ask_by_connection(&self, forward: &Forward, server: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        send(&mut stream, &forward.message)?;
        let message = receive(&mut stream)?;
        match self.read(forward, &message, Transport::Tcp)? {
            Response::Answer { message, .. } => Ok(message),
            Response::RetryOverTcp | Response::Unrelated => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// What a message of a server means. Its addresses are pinned.
    fn read(
        &self,
        forward: &Forward,
        message: &[u8],
        transport: Transport,
    ) -> io::Result<Response> {
        let response =
            (self.answerer).response(forward, message, transport, &mut self.refusals.names());
        if let Response::Answer { pin: Some(pin), .. } = &response {
            let pin = Pin {
                name: pin.name.to_string(),
                addresses: pin.addresses.clone(),
                lifetime_millis: u64::try_from(pin.lifetime.as_millis()).unwrap_or(u64::MAX),
            };
            if !(self.pin)(pin) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(response)
    }
}

/// Receives one message.
fn receive(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// Sends one message.
fn send(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QR: u8 = 0x80;
    const TC: u8 = 0x02;

    fn answer(query: &[u8], servers: &[SocketAddr]) -> Vec<u8> {
        let resolver = Resolver::new(None, Refusals::default(), |_| panic!("there is no policy"));
        resolver.answer(query, servers).unwrap()
    }

    const QUERY: &[u8] =
        b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

    #[test]
    fn servers_and_domains_are_those_of_the_host() {
        let hosts = Hosts::parse(
            b"# comment\nsearch old.example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n\
              search a.example b.example\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n",
        );
        let servers = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"];
        assert_eq!(hosts.servers, servers.map(|server| server.parse().unwrap()));
        assert_eq!(hosts.search, ["a.example", "b.example"]);
        assert_eq!(Hosts::parse(b"nameserver nonsense\n"), Hosts::default());
    }

    /// A server on the loopback that answers each datagram with `answer`, made from it.
    fn server(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                for answer in answer(&query[..length]) {
                    socket.send_to(&answer, client).unwrap();
                }
            }
        });
        address
    }

    /// The answer to a query for `a` with this many addresses.
    fn answered(query: &[u8], addresses: u8) -> Vec<u8> {
        let mut answer = query[..QUERY.len()].to_vec();
        answer[2] |= QR;
        answer[6..12].copy_from_slice(&[0, addresses, 0, 0, 0, 0]);
        for last in 0..addresses {
            answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc6\x33\x64");
            answer.push(last);
        }
        answer
    }

    /// The answer has the number of the guest's query, and the records of the server.
    fn assert_answers(got: &[u8], addresses: u8) {
        assert_eq!(got[..2], QUERY[..2]);
        assert_eq!(got[4..], answered(QUERY, addresses)[4..]);
        assert_eq!((got[2] & QR, got[3] & 0x0f), (QR, 0));
    }

    #[test]
    fn an_answer_with_another_number_is_not_the_answer() {
        let address = server(|query| {
            let mut forged = answered(query, 3);
            forged[0] ^= 1;
            vec![
                forged,
                query.to_vec(),
                b"short".to_vec(),
                answered(query, 1),
            ]
        });
        assert_answers(&answer(QUERY, &[address]), 1);
    }

    #[test]
    fn the_next_server_is_asked_and_without_any_the_query_fails() {
        let closed = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let good = server(|query| vec![answered(query, 2)]);
        assert_answers(&answer(QUERY, &[closed, good]), 2);
        for servers in [&[closed][..], &[]] {
            let failed = answer(QUERY, servers);
            assert_eq!(failed[..2], QUERY[..2]);
            assert_eq!((failed[2] & QR, failed[3] & 0x0f), (QR, 2));
        }
    }

    #[test]
    fn a_truncated_answer_is_asked_for_again_over_tcp() {
        let address = server(|query| {
            let mut short = answered(query, 0);
            short[2] |= TC;
            vec![short]
        });
        let listener = std::net::TcpListener::bind(address).unwrap();
        let serving = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let query = receive(&mut client).unwrap();
            send(&mut client, &answered(&query, 200)).unwrap();
        });
        assert_answers(&answer(QUERY, &[address]), 200);
        serving.join().unwrap();
    }

    #[test]
    fn only_allowed_names_are_asked_for_and_their_addresses_are_pinned_first() {
        let address = server(|query| vec![answered(query, 1)]);
        let (sender, pins) = std::sync::mpsc::channel();
        let policy = Policy::parse(["allow=a"]).unwrap();
        let pin = move |pin| sender.send(pin).is_ok();
        let resolver = Resolver::new(Some(policy), Refusals::default(), pin);
        assert_answers(&resolver.answer(QUERY, &[address]).unwrap(), 1);
        let pin = pins.try_recv().unwrap();
        assert_eq!(
            (pin.name.as_str(), pin.addresses),
            ("a", vec![IpAddr::from([198, 51, 100, 0])])
        );

        let refusals = Refusals::default();
        let denied = Resolver::new(Some(Policy::default()), refusals.clone(), |_| {
            panic!("nothing is allowed")
        });
        let refused = denied.answer(QUERY, &[address]).unwrap();
        // NXDOMAIN.
        assert_eq!((refused[2] & QR, refused[3] & 0x0f), (QR, 3));
        assert_eq!(
            refusals.summary().totals().unwrap(),
            "the egress rules refused 1 name: DNS name not allowed by a rule (1)"
        );

        // A VM that has ended takes no pins.
        let policy = Policy::parse(["allow=any"]).unwrap();
        let ended = Resolver::new(Some(policy), Refusals::default(), |_| false);
        let failed = ended.answer(QUERY, &[address]).unwrap();
        assert_eq!(failed[3] & 0x0f, 2);
    }

    #[test]
    fn a_stream_with_nonsense_is_closed() {
        let mut accept = Arc::new(Resolver::new(None, Refusals::default(), |_| true)).acceptor();
        for nonsense in [
            &b"\x00\x01x"[..],
            b"\x00\x0c\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        ] {
            let (mut guest, ours) = UnixStream::pair().unwrap();
            accept(ours);
            guest.write_all(nonsense).unwrap();
            assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        }
    }
}
