//! All connections of one guest, and the order in which they send.
//!
//! One epoll instance waits for the streams of the host, for one event at a time (`EPOLLONESHOT`)
//! and only for events that let a connection make progress. So a slow peer causes no wake-ups, and
//! neither does a guest without buffers: a readable stream is not polled again until its data was
//! sent.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::rand::{GetRandomFlags, getrandom};

use super::connection::{Connection, Disposition};
use super::credit_timer::CreditTimer;
use super::packet::{Header, Op, TYPE_STREAM};
use super::services::Services;
use crate::virtio::Segments;

/// The host's context identifier (virtio 1.2 section 5.10.4).
pub const HOST_CID: u64 = 2;

/// The maximum number of connections, including those that only drain their backlog.
pub const MAX_CONNECTIONS: usize = 512;

/// The maximum number of resets that wait for buffers of the guest. When it is reached, packets
/// from the guest wait too.
const MAX_RESETS: usize = 256;

/// The first port for connections from the host. The last is `u32::MAX - 1`; `u32::MAX` is
/// `VMADDR_PORT_ANY`.
const FIRST_PORT: u32 = 1 << 30;

/// Epoll tokens; those of connections follow.
const WAKE: u64 = 0;
const TIMER: u64 = 1;
const FIRST_ID: u64 = 2;

/// The ports of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ports {
    host: u32,
    guest: u32,
}

/// All connections of one guest.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    services: Services,
    epoll: OwnedFd,
    connections: HashMap<u64, (Ports, Connection)>,
    /// Connections that the guest has not reset.
    by_ports: HashMap<Ports, u64>,
    next_id: u64,
    next_port: u32,
    /// Connections that want to send, served round-robin.
    senders: VecDeque<u64>,
    resets: VecDeque<Header>,
    timer: CreditTimer,
    /// No connection exists or is made any more.
    severed: bool,
}

impl Muxer {
    /// A muxer for the guest with this context identifier. [`poll_fd`](Self::poll_fd) is readable
    /// while `wake` is.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(guest_cid: u64, services: Services, wake: BorrowedFd<'_>) -> io::Result<Muxer> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = CreditTimer::new()?;
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        epoll::add(
            &epoll,
            timer.as_fd(),
            EventData::new_u64(TIMER),
            EventFlags::IN,
        )?;
        Ok(Muxer {
            guest_cid,
            services,
            epoll,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            next_id: FIRST_ID,
            next_port: FIRST_PORT,
            senders: VecDeque::new(),
            resets: VecDeque::new(),
            timer,
            severed: false,
        })
    }

    /// Readable while [`take_events`](Self::take_events) has events to handle.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The guest's context identifier.
    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// Closes all connections.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.by_ports.clear();
        self.senders.clear();
        self.resets.clear();
        self.timer.clear();
    }

    /// Closes all connections for good. Packets from the guest are dropped from now on.
    pub fn sever(&mut self) {
        self.severed = true;
        self.clear();
    }

    /// Handles pending events of the host side, without waiting.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn take_events(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&now),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in events {
            match event.data.u64() {
                WAKE => {}
                TIMER => {
                    for id in self.timer.take_expired() {
                        if let Some((_, connection)) = self.connections.get_mut(&id) {
                            connection.credit_requested = false;
                            self.update(id);
                        }
                    }
                }
                id => {
                    if let Some((_, connection)) = self.connections.get_mut(&id) {
                        connection.ready(event.flags);
                        self.update(id);
                    }
                }
            }
        }
        Ok(())
    }

    /// Requests a connection to a port of the guest. If there are too many connections, or the
    /// guest refuses, the stream is closed.
    pub fn connect(&mut self, guest_port: u32, stream: UnixStream) {
        if self.severed {
            return;
        }
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(
                "vsock connection to port {guest_port} refused: limit of {MAX_CONNECTIONS} reached"
            );
            return;
        }
        let ports = Ports {
            host: self.free_port(guest_port),
            guest: guest_port,
        };
        self.insert(ports, Connection::from_host(stream));
    }

    /// Begins with another port of the host. A guest that was saved with open streams knows those that were
    /// used before, until its programs have closed their ends.
    ///
    /// # Errors
    /// When the host has no random numbers.
    pub fn begin_elsewhere(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4];
        getrandom(&mut bytes[..], GetRandomFlags::empty())?;
        self.next_port = FIRST_PORT | u32::from_ne_bytes(bytes) >> 2;
        Ok(())
    }

    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = match host {
                0xffff_fffe => FIRST_PORT,
                _ => host + 1,
            };
            // Terminates, because there are more ports than connections.
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn insert(&mut self, ports: Ports, connection: Connection) {
        let id = self.next_id;
        self.next_id += 1;
        // Waits only for a hang-up at first; `update` adds the other events.
        let armed = EventFlags::ONESHOT;
        if let Err(error) = epoll::add(
            &self.epoll,
            connection.stream(),
            EventData::new_u64(id),
            armed,
        ) {
            tracing::warn!("cannot poll a vsock connection: {error}");
            self.reset(ports);
            return;
        }
        self.connections.insert(id, (ports, connection));
        self.by_ports.insert(ports, id);
        self.update(id);
    }

    /// Whether packets from the guest can be handled now.
    pub fn can_receive(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Handles a packet from the guest. `data` is what follows the header: at least `header.len`
    /// bytes, unless the packet is malformed.
    pub fn receive(&mut self, header: &Header, mut data: Segments<'_>) {
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        // A packet with a forged sender is dropped.
        if self.severed || header.src_cid != self.guest_cid {
            return;
        }
        let is_reset = header.op == Op::Reset as u16;
        if header.dst_cid != HOST_CID
            || header.kind != TYPE_STREAM
            || (header.len as usize) > data.len()
        {
            if !is_reset {
                self.resets.push_back(reset_reply(header));
            }
            return;
        }
        data.split_off(header.len as usize);
        match self.by_ports.get(&ports).copied() {
            Some(id) => {
                if let Some((_, connection)) = self.connections.get_mut(&id) {
                    connection.receive(header, data);
                    self.update(id);
                }
            }
            None if header.op == Op::Request as u16 => self.accept(ports, header),
            // A reset is never answered with a reset; two peers could do that forever.
            None if is_reset => {}
            None => self.reset(ports),
        }
    }

    fn accept(&mut self, ports: Ports, request: &Header) {
        let room = self.connections.len() < MAX_CONNECTIONS;
        let stream = if room {
            self.services.open(ports.host)
        } else {
            None
        };
        match stream {
            Some(stream) => self.insert(ports, Connection::from_guest(stream, request)),
            None => self.reset(ports),
        }
    }

    fn reset(&mut self, ports: Ports) {
        let header = Header {
            op: Op::Reset as u16,
            ..Header::default()
        };
        self.resets.push_back(self.address(ports, header));
    }

    fn address(&self, ports: Ports, header: Header) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            ..header
        }
    }

    /// Whether [`next_packet`](Self::next_packet) may return a packet.
    pub fn wants_to_send(&self) -> bool {
        !self.resets.is_empty() || !self.senders.is_empty()
    }

    /// The next packet for the guest: writes its data to `room` and returns its header. `None` if
    /// there is none, or `room` is empty and there is only data.
    pub fn next_packet(&mut self, room: &Segments<'_>) -> Option<Header> {
        if let Some(header) = self.resets.pop_front() {
            return Some(header);
        }
        for _ in 0..self.senders.len() {
            let id = self.senders.pop_front()?;
            let Some((ports, connection)) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.queued = false;
            if connection.disposition() != Disposition::Keep {
                continue;
            }
            let ports = *ports;
            let header = connection.next_packet(room);
            self.update(id);
            if let Some(header) = header {
                return Some(self.address(ports, header));
            }
        }
        None
    }

    /// Ends every change of a connection: removes it if it has ended, else queues it for sending
    /// and sets the events to wait for.
    fn update(&mut self, id: u64) {
        let Some((ports, connection)) = self.connections.get_mut(&id) else {
            return;
        };
        let ports = *ports;
        match connection.disposition() {
            Disposition::Keep => {
                if connection.needs_credit() && !connection.credit_requested {
                    let retry_delay = connection.request_credit();
                    self.timer.add(id, retry_delay);
                }
                if connection.wants_to_send() && !connection.queued {
                    connection.queued = true;
                    self.senders.push_back(id);
                }
            }
            Disposition::Drain => self.release(ports, id),
            Disposition::Remove => {
                self.release(ports, id);
                self.connections.remove(&id);
                return;
            }
            Disposition::Reset => {
                self.release(ports, id);
                self.connections.remove(&id);
                self.reset(ports);
                return;
            }
        }
        self.poll_stream(id);
    }

    /// Frees the ports of a connection, if no other connection uses them yet.
    fn release(&mut self, ports: Ports, id: u64) {
        if self.by_ports.get(&ports) == Some(&id) {
            self.by_ports.remove(&ports);
        }
    }

    fn poll_stream(&mut self, id: u64) {
        let Some((_, connection)) = self.connections.get_mut(&id) else {
            return;
        };
        let interest = connection.interest();
        if interest.is_none() || interest == connection.armed {
            return;
        }
        let events = interest.unwrap_or_default() | EventFlags::ONESHOT;
        if let Err(error) = epoll::modify(
            &self.epoll,
            connection.stream(),
            EventData::new_u64(id),
            events,
        ) {
            // Does not happen for a file descriptor that was added. The connection would stall.
            tracing::warn!("cannot poll a vsock connection: {error}");
        }
        connection.armed = interest;
    }
}

/// The reset that answers a packet for another address or socket type.
fn reset_reply(header: &Header) -> Header {
    Header {
        src_cid: header.dst_cid,
        dst_cid: header.src_cid,
        src_port: header.dst_port,
        dst_port: header.src_port,
        kind: header.kind,
        op: Op::Reset as u16,
        ..Header::default()
    }
}
