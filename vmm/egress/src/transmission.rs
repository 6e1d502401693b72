//! The segments with data of a TCP connection.

use std::net::SocketAddr;

use crate::handshake::Syn;
use crate::packet::{self, Packet, Segment};

/// A segment of the guest that opens a connection, or has data.
#[derive(Debug)]
pub enum GuestSegment<'a> {
    /// It opens a connection; data that it may have are not looked at.
    Syn(Syn),
    /// It has data.
    Data(Transmission<'a>),
}

impl<'a> GuestSegment<'a> {
    /// Reads a frame as [`Syn::read`] and [`Transmission::read`] do, once for both. `None` if it is
    /// neither.
    pub fn read(bytes: &'a [u8], len: usize) -> Option<GuestSegment<'a>> {
        let (packet, segment) = packet::segment(bytes, len)?;
        match Syn::of(&packet, &segment) {
            Some(syn) => Some(GuestSegment::Syn(syn)),
            None => Transmission::of(bytes, &packet, &segment).map(GuestSegment::Data),
        }
    }
}

/// A segment with data that the guest sends.
#[derive(Debug)]
pub struct Transmission<'a> {
    /// The guest's address and port, and those of the server.
    pub between: [SocketAddr; 2],
    /// The number of its first byte.
    pub sequence: u32,
    /// The number that follows its last byte.
    pub end: u32,
    /// The frame, up to the data.
    headers: &'a [u8],
    /// Where the TCP header begins.
    tcp: usize,
}

impl<'a> Transmission<'a> {
    /// Reads a frame of `len` bytes that begins with `bytes`, at least
    /// [`TCP_HEADERS`](crate::TCP_HEADERS) of them if it has as many. `None` if it is anything else, or
    /// invalid.
    pub fn read(bytes: &'a [u8], len: usize) -> Option<Transmission<'a>> {
        let (packet, segment) = packet::segment(bytes, len)?;
        Transmission::of(bytes, &packet, &segment)
    }

    fn of(bytes: &'a [u8], packet: &Packet<'_>, segment: &Segment<'_>) -> Option<Transmission<'a>> {
        if segment.data_len == 0 || segment.flags.syn() || segment.flags.rst() {
            return None;
        }
        let start = bytes.as_ptr().addr();
        Some(Transmission {
            between: [
                SocketAddr::new(packet.source, segment.source_port),
                SocketAddr::new(packet.destination, segment.destination_port),
            ],
            sequence: segment.sequence,
            // Its length fits: that of a packet has 16 bits.
            end: segment.sequence.wrapping_add(segment.data_len as u32),
            headers: bytes.get(..segment.data.as_ptr().addr() - start)?,
            tcp: packet.payload.as_ptr().addr() - start,
        })
    }

    /// A frame with these headers that carries one byte, which is zero, as number `sequence`. Its
    /// checksums are not valid.
    pub fn with_byte_at(&self, sequence: u32) -> Vec<u8> {
        let mut frame = self.headers.to_vec();
        frame.push(0);
        let packet = (frame.len() - packet::ETHERNET) as u16;
        let is_ipv4 = self.between[0].is_ipv4();
        let (length_at, length) = match is_ipv4 {
            true => (packet::ETHERNET + 2, packet),
            // Without the header of 40 bytes.
            false => (packet::ETHERNET + 4, packet.saturating_sub(40)),
        };
        let fields = [
            (length_at, &length.to_be_bytes()[..]),
            (self.tcp + 4, &sequence.to_be_bytes()[..]),
            (self.tcp + 13, &[packet::TcpFlags::ACK][..]),
        ];
        for (at, value) in fields {
            if let Some(field) = frame.get_mut(at..at + value.len()) {
                field.copy_from_slice(value);
            }
        }
        frame
    }
}
