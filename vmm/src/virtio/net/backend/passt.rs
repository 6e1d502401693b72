//! What `passt` gets wrong in connections of the guest, made good. Versions such as that of Debian 12
//! (2023-03-09) have three faults:
//!
//! - They connect a socket of the host at the guest's first SYN, and answer when that is connected. A
//!   SYN that the guest sends again meanwhile, after one second, they take as a violation of the
//!   handshake, and reset the connection. A server that answers late, or one packet that the network
//!   loses, would be enough. Here repeated SYNs are dropped: the host's kernel repeats its own, and
//!   nothing is lost between this device and `passt`.
//! - The reset that they send if the host cannot connect does not acknowledge the SYN. The guest's kernel
//!   must drop it (RFC 9293 section 3.10.7.3), and its user waits for two minutes, instead of reading
//!   "connection refused". Here it is made to acknowledge the SYN.
//! - They drop a frame to the guest if their socket is full, which a download does, and never repeat an
//!   acknowledgment: they do not answer data that they have and have acknowledged. The guest sends the
//!   data again for minutes, until it gives up the connection. Here, a segment of which everything was
//!   sent before is followed by one that has a gap before it. `passt` answers that with an
//!   acknowledgment of what it has, twice, and drops the byte after the gap, which the guest has not sent
//!   and will send itself. It does so once: it remembers the lowest eight bits of the number that it
//!   answered. So it is to be asked only when the answer will find room.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use microagent_egress::{BareReset, GuestSegment, TCP_HEADERS, Transmission};

/// How many connections are known. One that takes the place of another is as if the other had never
/// been opened.
const PLACES: usize = 1024;

/// The number of bytes of the gap: the number of a FIN is not in it.
const GAP: u32 = 2;

/// The connections that the guest has opened.
#[derive(Debug)]
pub(super) struct Passt {
    /// The last connection of each place.
    opened: Vec<Connection>,
    key: RandomState,
}

/// A connection whose every segment since its SYN is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connection {
    /// The hash of its addresses and ports, which is never zero. The guest does not know the key, so
    /// it makes no two that are equal.
    between: u64,
    /// The number of its SYN.
    syn: u32,
    /// The number that follows the last byte that was sent.
    end: u32,
}

/// A segment of the guest that is about to be sent.
#[derive(Debug)]
pub(super) enum Outgoing<'a> {
    /// It opens this connection.
    Syn(Connection),
    /// It has data.
    Data(u64, Transmission<'a>),
    /// It is of no interest.
    Other,
}

impl Passt {
    pub fn new() -> Passt {
        Passt {
            opened: vec![Connection::default(); PLACES],
            key: RandomState::new(),
        }
    }

    /// The segment that a frame of `len` bytes is, which begins with `headers`. `None` if it must not be
    /// sent: it is a SYN that was sent.
    pub fn read<'a>(&self, headers: &'a [u8], len: usize) -> Option<Outgoing<'a>> {
        Some(match GuestSegment::read(headers, len) {
            Some(GuestSegment::Syn(syn)) => {
                let between = self.hash(syn.between);
                let known = self.opened[place(between)];
                if (known.between, known.syn) == (between, syn.sequence) {
                    return None;
                }
                Outgoing::Syn(Connection {
                    between,
                    syn: syn.sequence,
                    end: syn.sequence.wrapping_add(1),
                })
            }
            Some(GuestSegment::Data(data)) => Outgoing::Data(self.hash(data.between), data),
            None => Outgoing::Other,
        })
    }

    /// Takes note of a segment that was sent. Returns a frame that is to follow it.
    pub fn sent(&mut self, segment: Outgoing<'_>) -> Option<Vec<u8>> {
        match segment {
            Outgoing::Syn(connection) => {
                self.opened[place(connection.between)] = connection;
                None
            }
            Outgoing::Data(between, data) => {
                let known = &mut self.opened[place(between)];
                if known.between != between {
                    return None;
                }
                if is_after(data.end, known.end) {
                    known.end = data.end;
                    return None;
                }
                Some(data.with_byte_at(known.end.wrapping_add(GAP)))
            }
            Outgoing::Other => None,
        }
    }

    /// Completes a frame from `passt`, if it is a reset. In a connection that is open, the
    /// acknowledgment of a reset means nothing.
    pub fn complete(&self, frame: &mut [u8]) {
        // A reset has no data.
        if frame.len() <= TCP_HEADERS
            && let Some(reset) = BareReset::read(frame)
        {
            let between = self.hash(reset.between);
            let known = self.opened[place(between)];
            if known.between == between {
                reset.acknowledge(known.syn);
            }
        }
    }

    fn hash(&self, between: [SocketAddr; 2]) -> u64 {
        self.key.hash_one(between).max(1)
    }
}

fn place(between: u64) -> usize {
    (between % PLACES as u64) as usize
}

/// Whether `a` is after `b`, as sequence numbers are compared (RFC 9293 section 3.4).
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}
