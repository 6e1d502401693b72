//! One stream between a socket of the guest and a socket of the host.
//!
//! ```text
//! host ──stream──▶ next_packet ──▶ guest            limited by the guest's credit
//! host ◀──stream── backlog ◀── receive ◀── guest    the backlog holds at most BUF_ALLOC bytes
//! ```
//! The directions are closed separately: end of file on the stream becomes `SHUTDOWN` (send), and
//! `SHUTDOWN` from the guest becomes a shutdown of the stream when the backlog is empty. A
//! connection ends when the guest has reset it or shut down both directions, and the backlog is
//! empty: data from the guest reaches the host even if the guest resets the connection right after.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::epoll::EventFlags;

use super::backlog::Backlog;
use super::credit::PeerCredit;
use super::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::virtio::Segments;

/// The maximum size of the backlog of a connection, in bytes. Sent to the guest as `buf_alloc`,
/// which it must not exceed.
pub const BUF_ALLOC: u32 = 256 << 10;

/// The maximum data in a packet to the guest, in bytes: the maximum that Linux sends.
const MAX_DATA: usize = 64 << 10;

/// The delay before a credit request is repeated, for a guest that reads.
const MIN_CREDIT_RETRY: Duration = Duration::from_millis(10);

/// The maximum of that delay, for a guest that does not read.
const MAX_CREDIT_RETRY: Duration = Duration::from_millis(640);

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is in use.
    Keep,
    /// The guest has reset it; its ports are free, and the backlog is still to be sent.
    Drain,
    /// It has ended; the guest need not be informed.
    Remove,
    /// It has ended; the guest must receive a reset.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The guest has accepted it.
    open: bool,
    /// Packets to send, other than data.
    pending: Pending,
    credit: PeerCredit,
    /// The stream may have data to read.
    readable: bool,
    /// Nothing more is read from the stream.
    read_closed: bool,
    /// The host has closed its end: nothing can be written to the stream.
    host_hung_up: bool,
    backlog: Backlog,
    /// The number of bytes passed on to the stream or discarded, modulo 2^32.
    fwd_cnt: u32,
    /// `fwd_cnt` in the last packet to the guest.
    fwd_cnt_sent: u32,
    /// The flags of all `SHUTDOWN` packets from the guest.
    guest_shutdown: u32,
    /// The stream was shut down for writing.
    write_closed: bool,
    guest_reset: bool,
    protocol_error: bool,
    /// A credit request was sent because of the packet limit, and its retry delay has not expired.
    pub credit_requested: bool,
    /// The delay after the next credit request.
    retry_delay: Duration,
    /// The guest's `fwd_cnt` at the last credit request.
    fwd_cnt_at_request: u32,
    /// In the muxer's queue of senders.
    pub queued: bool,
    /// The events that epoll waits for.
    pub armed: Option<EventFlags>,
}

#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    /// The flags to send, and those that were sent.
    shutdown: u32,
    shutdown_sent: u32,
    credit_update: bool,
    credit_request: bool,
}

impl Connection {
    /// A connection that the host requests.
    pub fn from_host(stream: UnixStream) -> Connection {
        let pending = Pending {
            request: true,
            ..Pending::default()
        };
        Connection::new(stream, false, pending)
    }

    /// A connection that the guest requested with this packet and that the host accepts.
    pub fn from_guest(stream: UnixStream, request: &Header) -> Connection {
        let pending = Pending {
            response: true,
            ..Pending::default()
        };
        let mut connection = Connection::new(stream, true, pending);
        connection.credit.update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    fn new(stream: UnixStream, open: bool, pending: Pending) -> Connection {
        Connection {
            stream,
            open,
            pending,
            credit: PeerCredit::default(),
            readable: false,
            read_closed: false,
            host_hung_up: false,
            backlog: Backlog::default(),
            fwd_cnt: 0,
            fwd_cnt_sent: 0,
            guest_shutdown: 0,
            write_closed: false,
            guest_reset: false,
            protocol_error: false,
            credit_requested: false,
            retry_delay: MIN_CREDIT_RETRY,
            fwd_cnt_at_request: 0,
            queued: false,
            armed: None,
        }
    }

    /// The stream, for epoll.
    pub fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Handles a packet from the guest.
    pub fn receive(&mut self, header: &Header, data: Segments<'_>) {
        self.credit.update(header.buf_alloc, header.fwd_cnt);
        if self.credit.fwd_cnt() != self.fwd_cnt_at_request {
            // The guest reads again, so a long delay ends now. A short one does not, so that the
            // guest receives at most one credit request in `MIN_CREDIT_RETRY`.
            self.credit_requested &= self.retry_delay <= 2 * MIN_CREDIT_RETRY;
            self.retry_delay = MIN_CREDIT_RETRY;
        }
        match (Op::from_number(header.op), self.open) {
            (Some(Op::Reset), _) => self.guest_reset = true,
            (Some(Op::Response), false) => self.open = true,
            (Some(Op::Data), true) => self.receive_data(data),
            (Some(Op::Shutdown), true) => self.receive_shutdown(header.flags),
            (Some(Op::CreditUpdate), true) => {}
            (Some(Op::CreditRequest), true) => self.pending.credit_update = true,
            _ => self.protocol_error = true,
        }
    }

    fn receive_data(&mut self, data: Segments<'_>) {
        if self.backlog.len() + data.len() > BUF_ALLOC as usize {
            self.protocol_error = true;
        } else if self.host_hung_up || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            self.forwarded(data.len());
        } else {
            let result = self.backlog.send_or_keep(data, self.stream.as_fd());
            self.sent_to_host(result);
        }
    }

    fn receive_shutdown(&mut self, flags: u32) {
        self.guest_shutdown |= flags & (SHUTDOWN_RECEIVE | SHUTDOWN_SEND);
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 && !self.read_closed {
            self.read_closed = true;
            // The host's writes then fail with EPIPE. Fails only if the host has already closed its
            // end.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.finish_writing();
    }

    /// Handles epoll events of the stream.
    pub fn ready(&mut self, events: EventFlags) {
        self.armed = None;
        if events.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.readable = true;
        }
        if events.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.host_closed();
        } else if events.contains(EventFlags::OUT) {
            let result = self.backlog.send(self.stream.as_fd());
            self.sent_to_host(result);
        }
    }

    fn sent_to_host(&mut self, result: io::Result<usize>) {
        match result {
            Ok(n) => self.forwarded(n),
            Err(_) => self.host_closed(),
        }
        self.finish_writing();
    }

    /// The host has closed its end. Data that it wrote before is still sent to the guest.
    fn host_closed(&mut self) {
        self.host_hung_up = true;
        let lost = self.backlog.clear();
        self.forwarded(lost);
        self.pending.shutdown |= SHUTDOWN_RECEIVE;
    }

    fn forwarded(&mut self, n: usize) {
        self.fwd_cnt = self.fwd_cnt.wrapping_add(n as u32);
        if self.fwd_cnt.wrapping_sub(self.fwd_cnt_sent) >= BUF_ALLOC / 2 {
            self.pending.credit_update = true;
        }
    }

    fn finish_writing(&mut self) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.backlog.is_empty() && !self.write_closed
        {
            self.write_closed = true;
            // Fails only if the host has already closed its end.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The next packet for the guest: writes its data to `room` and returns its header. May be
    /// `None` even if [`wants_to_send`](Self::wants_to_send) was true.
    pub fn next_packet(&mut self, room: &Segments<'_>) -> Option<Header> {
        let mut header = self.next_header(room)?;
        header.buf_alloc = BUF_ALLOC;
        header.fwd_cnt = self.fwd_cnt;
        self.fwd_cnt_sent = self.fwd_cnt;
        self.pending.credit_update = false;
        Some(header)
    }

    fn next_header(&mut self, room: &Segments<'_>) -> Option<Header> {
        let packet = |op: Op, flags, len| Header {
            op: op as u16,
            flags,
            len,
            ..Header::default()
        };
        if std::mem::take(&mut self.pending.request) {
            return Some(packet(Op::Request, 0, 0));
        }
        if !self.open {
            return None;
        }
        if std::mem::take(&mut self.pending.response) {
            return Some(packet(Op::Response, 0, 0));
        }
        if let Some(len) = self.read(room) {
            return Some(packet(Op::Data, 0, len));
        }
        if self.shutdown_pending() {
            self.pending.shutdown_sent |= self.pending.shutdown;
            return Some(packet(Op::Shutdown, self.pending.shutdown_sent, 0));
        }
        if std::mem::take(&mut self.pending.credit_request) {
            return Some(packet(Op::CreditRequest, 0, 0));
        }
        self.pending
            .credit_update
            .then(|| packet(Op::CreditUpdate, 0, 0))
    }

    /// Reads data for the guest; `None` if there is none now.
    fn read(&mut self, room: &Segments<'_>) -> Option<u32> {
        let limit = room
            .len()
            .min(MAX_DATA)
            .min(self.credit.available() as usize);
        if !self.may_read() || limit == 0 {
            return None;
        }
        let mut room = room.clone();
        room.split_off(limit);
        match room.receive(self.stream.as_fd()) {
            Ok(0) => self.end_reading(),
            Ok(n) => {
                // A short read has usually emptied the stream; if not, epoll reports more.
                self.readable = n == limit;
                self.credit.sent(n as u32);
                return Some(n as u32);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => {
                self.host_closed();
                self.end_reading();
            }
        }
        None
    }

    fn end_reading(&mut self) {
        self.readable = false;
        self.read_closed = true;
        self.pending.shutdown |= SHUTDOWN_SEND;
    }

    fn may_read(&self) -> bool {
        self.open && self.readable && !self.read_closed
    }

    fn shutdown_pending(&self) -> bool {
        self.pending.shutdown & !self.pending.shutdown_sent != 0
    }

    /// Whether [`next_packet`](Self::next_packet) may return a packet.
    pub fn wants_to_send(&self) -> bool {
        let pending = &self.pending;
        pending.request
            || self.open
                && (pending.response
                    || pending.credit_update
                    || pending.credit_request
                    || self.shutdown_pending()
                    || self.may_read() && self.credit.available() > 0)
    }

    /// Whether sending is stopped until the guest answers a `CREDIT_REQUEST`.
    pub fn needs_credit(&self) -> bool {
        self.may_read() && self.credit.packet_limited()
    }

    /// Sends a credit request. Returns the delay before the next one, which doubles up to
    /// [`MAX_CREDIT_RETRY`] while the guest does not read.
    pub fn request_credit(&mut self) -> Duration {
        self.fwd_cnt_at_request = self.credit.fwd_cnt();
        self.credit_requested = true;
        self.pending.credit_request = true;
        let retry_delay = self.retry_delay;
        self.retry_delay = MAX_CREDIT_RETRY.min(2 * retry_delay);
        retry_delay
    }

    /// The events to wait for: an empty set is only a hang-up, `None` is nothing.
    pub fn interest(&self) -> Option<EventFlags> {
        let mut events = EventFlags::empty();
        if self.open && !self.readable && !self.read_closed {
            events |= EventFlags::IN;
        }
        if !self.backlog.is_empty() {
            events |= EventFlags::OUT;
        }
        // After a hang-up, epoll would report it again and again.
        (!events.is_empty() || !self.host_hung_up).then_some(events)
    }

    /// What to do with the connection in its current state.
    pub fn disposition(&self) -> Disposition {
        let guest_done = self.guest_shutdown == SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
        if self.protocol_error {
            Disposition::Reset
        } else if self.guest_reset {
            if self.backlog.is_empty() {
                Disposition::Remove
            } else {
                Disposition::Drain
            }
        } else if guest_done && self.backlog.is_empty() || self.host_hung_up && !self.open {
            Disposition::Reset
        } else {
            Disposition::Keep
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use vm_memory::VolatileSlice;

    use super::*;

    #[test]
    fn fwd_cnt_wraps_around() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::from_guest(ours, &Header::default());
        let mut reported = u32::MAX - 100_000;
        connection.fwd_cnt = reported;
        connection.fwd_cnt_sent = reported;
        assert!(connection.next_packet(&Segments::default()).is_some());
        let header = Header {
            op: Op::Data as u16,
            ..Header::default()
        };
        let (mut taken, mut updates) = (0u32, 0);
        for _ in 0..100 {
            let mut data = [7; 10_000];
            connection.receive(&header, VolatileSlice::from(&mut data[..]).into());
            theirs.read_exact(&mut data).unwrap();
            taken += 10_000;
            if let Some(packet) = connection.next_packet(&Segments::default()) {
                assert_eq!(packet.op, Op::CreditUpdate as u16);
                assert!(packet.fwd_cnt.wrapping_sub(reported) >= BUF_ALLOC / 2);
                reported = packet.fwd_cnt;
                updates += 1;
                assert_eq!(reported, (u32::MAX - 100_000).wrapping_add(taken));
            }
        }
        assert_eq!(updates, 100 * 10_000 / 140_000);
        assert_eq!(connection.disposition(), Disposition::Keep);
    }
}
