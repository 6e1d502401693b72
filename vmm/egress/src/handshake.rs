//! The segments with which a TCP connection begins, or does not.

use std::net::SocketAddr;

use crate::packet::{self, Packet, Segment};

/// More bytes of a frame than the headers of a TCP segment have without IPv6 extension headers:
/// Ethernet, an IPv4 header of maximum length, and a TCP header of maximum length.
pub const TCP_HEADERS: usize = packet::ETHERNET + 60 + 60;

/// The SYN of a TCP connection that the guest opens. One that is sent again is equal to the first;
/// a later connection between the same ports has another initial sequence number (RFC 9293 section
/// 3.4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    /// The guest's address and port, and those of the server.
    pub between: [SocketAddr; 2],
    /// The initial sequence number.
    pub sequence: u32,
}

impl Syn {
    /// Reads a frame of `len` bytes that begins with `bytes`, at least [`TCP_HEADERS`] of them if it
    /// has as many. `None` if it is anything else than a SYN, or invalid.
    pub fn read(bytes: &[u8], len: usize) -> Option<Syn> {
        let (packet, segment) = packet::segment(bytes, len)?;
        Syn::of(&packet, &segment)
    }

    pub(crate) fn of(packet: &Packet<'_>, segment: &Segment<'_>) -> Option<Syn> {
        let is_syn = segment.flags.syn() && !segment.flags.ack() && !segment.flags.rst();
        is_syn.then(|| Syn {
            between: [
                SocketAddr::new(packet.source, segment.source_port),
                SocketAddr::new(packet.destination, segment.destination_port),
            ],
            sequence: segment.sequence,
        })
    }
}

/// A reset from the network that acknowledges nothing. A guest drops it if it answers a SYN (RFC 9293
/// section 3.10.7.3).
#[derive(Debug)]
pub struct BareReset<'a> {
    /// The guest's address and port, and those of the server.
    pub between: [SocketAddr; 2],
    /// From the acknowledgment number to the flags.
    header: &'a mut [u8; 6],
}

impl<'a> BareReset<'a> {
    /// Reads a whole frame. `None` if it is anything else, or invalid.
    pub fn read(frame: &'a mut [u8]) -> Option<BareReset<'a>> {
        let (packet, segment) = packet::segment(frame, frame.len())?;
        if !segment.flags.rst() || segment.flags.ack() || segment.flags.syn() {
            return None;
        }
        let between = [
            SocketAddr::new(packet.destination, segment.destination_port),
            SocketAddr::new(packet.source, segment.source_port),
        ];
        let at = packet.payload.as_ptr().addr() - frame.as_ptr().addr();
        let header = frame.get_mut(at + 8..)?.first_chunk_mut()?;
        Some(BareReset { between, header })
    }

    /// Makes it acknowledge a SYN. The checksum is no longer valid.
    pub fn acknowledge(self, sequence: u32) {
        let [n0, n1, n2, n3, _, flags] = self.header;
        [*n0, *n1, *n2, *n3] = sequence.wrapping_add(1).to_be_bytes();
        *flags |= packet::TcpFlags::ACK;
    }
}
