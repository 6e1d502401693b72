//! A guest with sockets: a driver that follows the credit rules (virtio 1.2 section 5.10.6.3) and
//! checks that the device follows them.

use std::collections::{HashMap, VecDeque};

use super::{BUFFERS, Driver, poll_readable, readable, writable};
use crate::virtio::VirtioDevice;
use crate::virtio::vsock::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use crate::virtio::vsock::{EVENT, HOST_CID, RX, Services, TX, Vsock, VsockHandle};

pub const CID: u32 = 3;
/// The buffer of a socket, in bytes: the default of Linux.
pub const BUF_ALLOC: u32 = 256 << 10;
const RX_BUFFER: u64 = 4096;
const TX_BUFFER: u64 = 0x1_1000;
const TX_BASE: u64 = BUFFERS + 0x10_0000;
pub const MAX_DATA: usize = 64 << 10;

/// A guest with a socket device.
pub struct Guest {
    pub device: Vsock,
    pub handle: VsockHandle,
    pub driver: Driver,
    /// Received packets without a socket.
    pub stray: VecDeque<(Header, Vec<u8>)>,
    pub sockets: HashMap<(u32, u32), Socket>,
    rx_buffers: HashMap<u16, u64>,
    tx_free: Vec<u64>,
    tx_busy: HashMap<u16, u64>,
}

/// The buffer for events.
pub const EVENT_BUFFER: u64 = BUFFERS - 64;

/// A socket of the guest.
#[derive(Default)]
pub struct Socket {
    /// Data that was received and not read.
    pub inbox: Vec<u8>,
    pub fwd_cnt: u32,
    /// `fwd_cnt` in the last packet to the host.
    fwd_cnt_sent: u32,
    /// The host's `buf_alloc` and `fwd_cnt`.
    peer: (u32, u32),
    sent: u32,
    packets: usize,
    /// The flags of all `SHUTDOWN` packets from the host.
    pub shutdown: u32,
    pub reset: bool,
    pub credit_requests: usize,
}

impl Guest {
    /// A guest whose driver is ready and offers all receive buffers.
    pub fn new(services: Services) -> Guest {
        let mut guest = Guest::without_buffers(services);
        guest.offer_buffers(128);
        guest
    }

    /// A guest whose driver is ready and offers no receive buffers.
    pub fn without_buffers(services: Services) -> Guest {
        let (device, handle) = Vsock::new(CID, services).unwrap();
        let mut driver = Driver::new(&device, 32 << 20);
        driver.offer(EVENT, &[writable(EVENT_BUFFER, 8)]);
        let mut guest = Guest {
            device,
            handle,
            driver,
            stray: VecDeque::new(),
            sockets: HashMap::new(),
            rx_buffers: HashMap::new(),
            tx_free: (0..128).map(|i| TX_BASE + i * TX_BUFFER).collect(),
            tx_busy: HashMap::new(),
        };
        guest.device.activate(&mut guest.driver).unwrap();
        guest
    }

    pub fn offer_buffers(&mut self, count: u64) {
        for i in 0..count {
            let at = BUFFERS + i * RX_BUFFER;
            let head = self.driver.offer(RX, &[writable(at, RX_BUFFER as u32)]);
            self.rx_buffers.insert(head, at);
        }
        self.device.queue_event(RX, &mut self.driver).unwrap();
        self.handle_used();
    }

    /// Sends a packet without any checks; `false` if the queue is full.
    pub fn send_raw(&mut self, header: &Header, data: &[u8]) -> bool {
        self.handle_used();
        if self.driver.free(TX) < 2 {
            return false;
        }
        let at = self.tx_free.pop().unwrap();
        self.driver.write(at, &header.encode());
        self.driver.write(at + HEADER_LEN as u64, data);
        let data_at = at + HEADER_LEN as u64;
        // Header and data are in separate descriptors, as in Linux before 6.2.
        let pieces = [
            readable(at, HEADER_LEN as u32),
            readable(data_at, data.len() as u32),
        ];
        let pieces = if data.is_empty() {
            &pieces[..1]
        } else {
            &pieces[..]
        };
        let head = self.driver.offer(TX, pieces);
        self.tx_busy.insert(head, at);
        self.device.queue_event(TX, &mut self.driver).unwrap();
        self.handle_used();
        true
    }

    /// The header of a packet from a guest port to a host port, with the socket's credit.
    pub fn packet(&mut self, ports: (u32, u32), op: Op) -> Header {
        let fwd_cnt = self.sockets.get_mut(&ports).map_or(0, |socket| {
            socket.fwd_cnt_sent = socket.fwd_cnt;
            socket.fwd_cnt
        });
        Header {
            src_cid: u64::from(CID),
            dst_cid: HOST_CID,
            src_port: ports.0,
            dst_port: ports.1,
            kind: TYPE_STREAM,
            op: op as u16,
            buf_alloc: BUF_ALLOC,
            fwd_cnt,
            ..Header::default()
        }
    }

    pub fn send(&mut self, ports: (u32, u32), op: Op, flags: u32) {
        let header = Header {
            flags,
            ..self.packet(ports, op)
        };
        assert!(self.send_raw(&header, &[]));
    }

    /// Connects to a port of the host, which must accept.
    pub fn connect(&mut self, ports: (u32, u32)) {
        self.sockets.insert(ports, Socket::default());
        self.send(ports, Op::Request, 0);
        assert_ne!(self.sockets[&ports].peer, (0, 0), "the host did not accept");
    }

    /// Sends as much as the host has room for, in one packet; returns the number of bytes.
    pub fn send_data(&mut self, ports: (u32, u32), data: &[u8]) -> usize {
        let socket = &self.sockets[&ports];
        let room = socket.peer.0 - socket.sent.wrapping_sub(socket.peer.1);
        let len = data.len().min(room as usize).min(MAX_DATA);
        // `packet` records what it reports to the host, so it is called only for a packet that is
        // sent.
        if len == 0 || self.driver.free(TX) < 2 {
            return 0;
        }
        let header = Header {
            len: len as u32,
            ..self.packet(ports, Op::Data)
        };
        assert!(self.send_raw(&header, &data[..len]));
        let socket = self.sockets.get_mut(&ports).unwrap();
        socket.sent = socket.sent.wrapping_add(len as u32);
        len
    }

    /// Reads all received data. Like Linux 6.1, sends a credit update when the host knows of less
    /// than 64 KiB of free space.
    pub fn read(&mut self, ports: (u32, u32)) -> Vec<u8> {
        let socket = self.sockets.get_mut(&ports).unwrap();
        let data = std::mem::take(&mut socket.inbox);
        socket.packets = 0;
        socket.fwd_cnt = socket.fwd_cnt.wrapping_add(data.len() as u32);
        if BUF_ALLOC - socket.fwd_cnt.wrapping_sub(socket.fwd_cnt_sent) < 64 << 10 {
            self.send(ports, Op::CreditUpdate, 0);
        }
        data
    }

    /// Passes a backend event to the device, if there is one within this time.
    pub fn wait(&mut self, milliseconds: i64) -> bool {
        let ready = poll_readable(self.device.backend_fd().unwrap(), milliseconds);
        if ready {
            self.device.backend_event(&mut self.driver).unwrap();
            self.handle_used();
        }
        ready
    }

    /// Waits for the next packet without a socket.
    pub fn next_stray(&mut self) -> (Header, Vec<u8>) {
        while self.stray.is_empty() {
            assert!(self.wait(900), "no packet was received");
        }
        self.stray.pop_front().unwrap()
    }

    /// Handles all buffers that the device has returned.
    fn handle_used(&mut self) {
        for (head, written) in self.driver.used(TX) {
            assert_eq!(written, 0);
            self.tx_free.push(self.tx_busy.remove(&head).unwrap());
        }
        let mut asked = Vec::new();
        loop {
            let used = self.driver.used(RX);
            if used.is_empty() {
                break;
            }
            let mut filled = Vec::new();
            for (head, written) in used {
                filled.push((self.rx_buffers.remove(&head).unwrap(), written));
            }
            for (at, written) in filled {
                let bytes = self.driver.read(at, written as usize);
                let (header, data) = bytes.split_first_chunk().unwrap();
                asked.extend(self.receive(Header::decode(header), data));
                let head = self.driver.offer(RX, &[writable(at, RX_BUFFER as u32)]);
                self.rx_buffers.insert(head, at);
            }
            self.device.queue_event(RX, &mut self.driver).unwrap();
        }
        for ports in asked {
            self.send(ports, Op::CreditUpdate, 0);
        }
    }

    /// Handles a packet; returns its ports if it requests a credit update.
    fn receive(&mut self, header: Header, data: &[u8]) -> Option<(u32, u32)> {
        assert_eq!(header.len as usize, data.len());
        let ports = (header.dst_port, header.src_port);
        let Some(socket) = self.sockets.get_mut(&ports) else {
            self.stray.push_back((header, data.to_vec()));
            return None;
        };
        assert_eq!(
            (header.src_cid, header.dst_cid, header.kind),
            (HOST_CID, u64::from(CID), TYPE_STREAM)
        );
        socket.peer = (header.buf_alloc, header.fwd_cnt);
        match Op::from_number(header.op).unwrap() {
            Op::Data => {
                assert!(!data.is_empty());
                socket.inbox.extend_from_slice(data);
                socket.packets += 1;
                assert!(
                    socket.inbox.len() <= BUF_ALLOC as usize,
                    "the device exceeded its credit"
                );
                assert!(socket.packets <= 455, "more packets than Linux accepts");
            }
            Op::Shutdown => socket.shutdown |= header.flags,
            Op::Reset => socket.reset = true,
            Op::CreditRequest => {
                socket.credit_requests += 1;
                return Some(ports);
            }
            Op::Request | Op::Response | Op::CreditUpdate => {}
        }
        None
    }
}
