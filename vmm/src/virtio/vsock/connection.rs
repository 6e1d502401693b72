//! One stream between a socket of the guest and a socket of the host.
//!
//! ```text
//! host ──stream──▶ next_packet ──▶ guest      as far as the guest's credit goes
//! host ◀──stream── backlog ◀── receive ◀── guest      what the host does not take yet, at most BUF_ALLOC
//! ```
//! Each direction ends by itself: the host's end of file becomes `SHUTDOWN` (send), the guest's
//! becomes a shutdown of the stream once the backlog is through. A connection is over when the
//! guest has reset it or shut both directions down, and the backlog is through: data that the
//! guest sent reaches the host even if the guest is quick to forget the connection.

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

/// How much of the guest's data a connection holds for a host that does not read, in bytes. The
/// guest knows it as `buf_alloc` and may not send more.
pub const BUF_ALLOC: u32 = 256 << 10;

/// The most data one packet carries to the guest, in bytes: what Linux sends in one.
const MAX_DATA: usize = 64 << 10;

/// How long a guest that was asked for its credit has to read before it is asked again.
const MIN_CREDIT_RETRY: Duration = Duration::from_millis(10);

/// The same for one that has not read for a while.
const MAX_CREDIT_RETRY: Duration = Duration::from_millis(640);

/// What shall become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It goes on.
    Keep,
    /// The guest has forgotten it, only the backlog is left: its ports are free.
    Drain,
    /// It is over, and the guest knows.
    Remove,
    /// It is over, and the guest is to be told by a reset.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// The guest has accepted it.
    open: bool,
    /// Packets that are due, besides data.
    pending: Pending,
    credit: PeerCredit,
    /// The stream may have something to read.
    readable: bool,
    /// Nothing more is read from the stream.
    read_closed: bool,
    /// The host's end is closed: nothing more can be written to the stream.
    host_hung_up: bool,
    backlog: Backlog,
    /// Bytes taken from the guest and out of the backlog, modulo 2^32.
    fwd_cnt: u32,
    /// `fwd_cnt` as the guest knows it.
    fwd_cnt_sent: u32,
    /// The flags of the guest's `SHUTDOWN`s.
    guest_shutdown: u32,
    /// The end of the guest's data was passed on to the stream.
    write_closed: bool,
    guest_reset: bool,
    protocol_error: bool,
    /// The guest was asked for its credit because of the packet limit, and has time to read.
    pub credit_requested: bool,
    /// How much time it gets the next time, and what it had read the last time.
    retry_delay: Duration,
    fwd_cnt_at_request: u32,
    /// Waits for its turn to send.
    pub queued: bool,
    /// What the event loop waits for.
    pub armed: Option<EventFlags>,
}

#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    /// Flags to send, and flags sent.
    shutdown: u32,
    shutdown_sent: u32,
    credit_update: bool,
    credit_request: bool,
}

impl Connection {
    /// One that the host asks for.
    pub fn from_host(stream: UnixStream) -> Connection {
        let pending = Pending {
            request: true,
            ..Pending::default()
        };
        Connection::new(stream, false, pending)
    }

    /// One that the guest asked for with this packet, and that is accepted.
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

    /// The stream, to wait for.
    pub fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Takes a packet of the guest.
    pub fn receive(&mut self, header: &Header, data: Segments<'_>) {
        self.credit.update(header.buf_alloc, header.fwd_cnt);
        if self.credit.fwd_cnt() != self.fwd_cnt_at_request {
            // It reads again, so a long time that it was given is over. A short one is not: who goes
            // on reading is asked no more often than every `MIN_CREDIT_RETRY`.
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
            // The host's writers learn of it by a broken pipe. It fails only when the other end
            // is gone already.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.finish_writing();
    }

    /// The stream is ready for something, as an event says.
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

    /// The host's end takes nothing any more; what it left to read is still for the guest.
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
            // It fails only when the other end is gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The next packet for the guest: its header, and its data in `room`. `None` when there is
    /// nothing to send, which may turn out only here.
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

    /// Reads data for the guest; `None` when there is none now.
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
                // A short read most likely took all there was; if not, the next event says so.
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

    /// Whether [`next_packet`](Self::next_packet) may have something.
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

    /// Whether only the guest's answer to a `CREDIT_REQUEST` can make it go on.
    pub fn needs_credit(&self) -> bool {
        self.may_read() && self.credit.packet_limited()
    }

    /// Asks the guest for its credit. After how long to ask again: twice as long as the last time,
    /// up to [`MAX_CREDIT_RETRY`], while it does not read at all.
    pub fn request_credit(&mut self) -> Duration {
        self.fwd_cnt_at_request = self.credit.fwd_cnt();
        self.credit_requested = true;
        self.pending.credit_request = true;
        let retry_delay = self.retry_delay;
        self.retry_delay = MAX_CREDIT_RETRY.min(2 * retry_delay);
        retry_delay
    }

    /// What to wait for; nothing in particular means: for the host to go away.
    pub fn interest(&self) -> Option<EventFlags> {
        let mut events = EventFlags::empty();
        if self.open && !self.readable && !self.read_closed {
            events |= EventFlags::IN;
        }
        if !self.backlog.is_empty() {
            events |= EventFlags::OUT;
        }
        // A host that is gone is ready for ever, and there is nothing to learn from it.
        (!events.is_empty() || !self.host_hung_up).then_some(events)
    }

    /// What shall become of it now.
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
    fn what_was_taken_is_counted_across_the_end_of_the_counter() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::from_guest(ours, &Header::default());
        let mut told = u32::MAX - 100_000;
        connection.fwd_cnt = told;
        connection.fwd_cnt_sent = told;
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
                assert!(packet.fwd_cnt.wrapping_sub(told) >= BUF_ALLOC / 2);
                told = packet.fwd_cnt;
                updates += 1;
                assert_eq!(told, (u32::MAX - 100_000).wrapping_add(taken));
            }
        }
        assert_eq!(updates, 100 * 10_000 / 140_000);
        assert_eq!(connection.disposition(), Disposition::Keep);
    }
}
