//! The socket device.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use microagent_vmm::virtio::vsock::{BUF_ALLOC, HOST_CID, Services, TX, Vsock, VsockHandle};
use virtio_drivers::Error;
use virtio_drivers::device::socket::{
    DisconnectReason, SocketError, VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEvent,
    VsockEventType,
};

use crate::memory::GuestPages;
use crate::transport::GuestTransport;
use crate::{Interrupts, TransportKind, on_every_transport, with_each_ring_feature_set};

on_every_transport!(
    megabytes_pass_both_ways_at_once,
    the_host_connects_to_a_port_that_listens,
    a_guest_port_without_a_listener_refuses,
    a_host_port_without_a_service_refuses,
    a_host_that_does_not_read_accepts_its_advertised_buffer,
    a_guest_that_does_not_read_receives_its_advertised_buffer,
    a_shutdown_closes_both_directions_and_is_confirmed,
    a_reset_by_the_guest_closes_the_stream,
    a_host_that_hangs_up_shuts_the_connection_down,
    many_streams_do_not_mix,
);

const CID: u32 = 7;
const SERVICE: u32 = 80;
const SERVED: VsockAddr = VsockAddr {
    cid: HOST_CID,
    port: SERVICE,
};
/// The size of the driver's receive buffers, header included.
const RX_BUFFER: usize = 8192;
/// The driver's `buf_alloc`.
const CAPACITY: u32 = 64 << 10;

struct Guest {
    manager: VsockConnectionManager<GuestPages, GuestTransport, RX_BUFFER>,
    interrupts: Rc<Interrupts>,
    handle: VsockHandle,
    streams: Receiver<UnixStream>,
}

impl Guest {
    fn new(kind: TransportKind, masked: u64) -> Guest {
        let (sender, streams) = mpsc::channel();
        let services = Services::new().with(SERVICE, move |stream| sender.send(stream).unwrap());
        let (device, handle) = Vsock::new(CID, services).unwrap();
        let (device, interrupts) = kind.attach(Box::new(device), masked, TX as u16);
        let driver = VirtIOSocket::new(device).unwrap();
        let manager = VsockConnectionManager::new_with_capacity(driver, CAPACITY);
        assert_eq!(manager.guest_cid(), u64::from(CID));
        Guest {
            manager,
            interrupts,
            handle,
            streams,
        }
    }

    /// The driver's next event, if there is one now.
    fn poll(&mut self) -> Option<VsockEvent> {
        // The driver handles some packets itself and then returns `None`; at most as many in a
        // row as it has buffers.
        (0..32).find_map(|_| {
            // See `block::finish_one`.
            fence(Ordering::SeqCst);
            self.manager.poll().unwrap()
        })
    }

    /// Waits for the driver's next event.
    fn event(&mut self) -> VsockEvent {
        loop {
            if let Some(event) = self.poll() {
                return event;
            }
            self.interrupts.wait();
        }
    }

    /// Waits for this event of one connection; others are dropped.
    fn expect(&mut self, peer: VsockAddr, port: u32, wanted: &VsockEventType) {
        loop {
            let event = self.event();
            if event.source == peer && event.destination.port == port && event.event_type == *wanted
            {
                return;
            }
        }
    }

    /// Connects to the service; the host's end of the stream.
    fn connect(&mut self, port: u32) -> UnixStream {
        self.manager.connect(SERVED, port).unwrap();
        self.expect(SERVED, port, &VsockEventType::Connected);
        self.streams.recv().unwrap()
    }

    /// Reads all received data and sends a credit update.
    fn receive(&mut self, peer: VsockAddr, port: u32) -> Vec<u8> {
        let waiting = self.manager.recv_buffer_available_bytes(peer, port);
        let mut data = vec![0; waiting.unwrap_or(0)];
        if !data.is_empty() {
            let n = self.manager.recv(peer, port, &mut data).unwrap();
            assert_eq!(n, data.len());
            // Fails if the host has shut down and this was the last of the data.
            let _ = self.manager.update_credit(peer, port);
        }
        data
    }

    /// Sends as much as the host has credit for; returns the number of bytes.
    fn send(&mut self, peer: VsockAddr, port: u32, data: &[u8]) -> usize {
        let mut sent = 0;
        while sent < data.len() {
            let end = data.len().min(sent + 16_000);
            match self.manager.send(peer, port, &data[sent..end]) {
                Ok(()) => sent = end,
                Err(Error::SocketDeviceError(SocketError::InsufficientBufferSpaceInPeer)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        sent
    }
}

/// A pattern in which nearby positions differ.
fn bytes(from: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| (at ^ at >> 8 ^ at >> 16).wrapping_mul(151) as u8;
    (from..from + len).map(byte).collect()
}

fn disconnected(reason: DisconnectReason) -> VsockEventType {
    VsockEventType::Disconnected { reason }
}

fn megabytes_pass_both_ways_at_once(kind: TransportKind) {
    const TOTAL: usize = 3 << 20;
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let stream = guest.connect(1000);
        let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
        let reads = thread::spawn(move || {
            let mut got = vec![0; TOTAL];
            reader.read_exact(&mut got).unwrap();
            got
        });
        let writes = thread::spawn(move || writer.write_all(&bytes(5, TOTAL)));
        let (data, mut sent, mut got) = (bytes(0, TOTAL), 0, Vec::new());
        while sent < TOTAL || got.len() < TOTAL {
            let n = guest.send(SERVED, 1000, &data[sent..]);
            sent += n;
            let event = guest.poll().is_some();
            let new = guest.receive(SERVED, 1000);
            if n == 0 && !event && new.is_empty() {
                guest.interrupts.wait();
            }
            got.extend(new);
        }
        writes.join().unwrap().unwrap();
        assert!(got == bytes(5, TOTAL));
        assert!(reads.join().unwrap() == data);
    });
}

fn the_host_connects_to_a_port_that_listens(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        guest.manager.listen(5000);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        guest.handle.connect(5000, theirs);
        let event = guest.event();
        assert_eq!(event.event_type, VsockEventType::ConnectionRequest);
        assert_eq!((event.source.cid, event.destination.port), (HOST_CID, 5000));
        let peer = event.source;

        ours.write_all(b"to the guest").unwrap();
        let mut got = Vec::new();
        while got.len() < 12 {
            guest.event();
            got.extend(guest.receive(peer, 5000));
        }
        assert_eq!(got, b"to the guest");
        assert_eq!(guest.send(peer, 5000, b"to the host"), 11);
        let mut got = [0; 11];
        ours.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"to the host");
    });
}

fn a_guest_port_without_a_listener_refuses(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        guest.handle.connect(5001, theirs);
        guest.interrupts.wait();
        assert_eq!(guest.poll(), None, "the driver refuses it without an event");
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    });
}

fn a_host_port_without_a_service_refuses(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let nobody = VsockAddr { port: 81, ..SERVED };
        guest.manager.connect(nobody, 1000).unwrap();
        guest.expect(nobody, 1000, &disconnected(DisconnectReason::Reset));
    });
}

fn a_host_that_does_not_read_accepts_its_advertised_buffer(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let mut stream = guest.connect(1000);
        let data = bytes(0, 4 << 20);
        let mut sent = 0;
        // The driver requests credit once in each round, and the device answers.
        loop {
            let n = guest.send(SERVED, 1000, &data[sent..]);
            sent += n;
            if n == 0 {
                break;
            }
            guest.expect(SERVED, 1000, &VsockEventType::CreditUpdate);
        }
        assert!(sent >= BUF_ALLOC as usize - 16_000 && sent < data.len());

        let reads = thread::spawn(move || {
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        while sent < data.len() {
            let n = guest.send(SERVED, 1000, &data[sent..]);
            sent += n;
            if n == 0 {
                guest.expect(SERVED, 1000, &VsockEventType::CreditUpdate);
            }
        }
        guest.manager.shutdown(SERVED, 1000).unwrap();
        guest.expect(SERVED, 1000, &disconnected(DisconnectReason::Reset));
        assert!(reads.join().unwrap() == data);
    });
}

fn a_guest_that_does_not_read_receives_its_advertised_buffer(kind: TransportKind) {
    const TOTAL: usize = 1 << 20;
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let mut stream = guest.connect(1000);
        let writes = thread::spawn(move || {
            stream.write_all(&bytes(0, TOTAL)).unwrap();
            stream
        });
        // A byte above the capacity makes the driver return an error.
        let waiting = |guest: &mut Guest| {
            let waiting = guest.manager.recv_buffer_available_bytes(SERVED, 1000);
            waiting.unwrap()
        };
        while waiting(&mut guest) < CAPACITY as usize {
            guest.event();
        }
        assert!(!writes.is_finished());
        assert_eq!(guest.poll(), None);
        let mut got = Vec::new();
        while got.len() < TOTAL {
            let new = guest.receive(SERVED, 1000);
            if new.is_empty() {
                guest.event();
            }
            got.extend(new);
        }
        assert!(got == bytes(0, TOTAL));
        writes.join().unwrap();
    });
}

fn a_shutdown_closes_both_directions_and_is_confirmed(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let mut stream = guest.connect(1000);
        assert_eq!(guest.send(SERVED, 1000, b"last words"), 10);
        guest.manager.shutdown(SERVED, 1000).unwrap();
        guest.expect(SERVED, 1000, &disconnected(DisconnectReason::Reset));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"last words");
        let error = stream.write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        // The ports are free again.
        guest.connect(1000);
    });
}

fn a_reset_by_the_guest_closes_the_stream(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let mut stream = guest.connect(1000);
        guest.manager.force_close(SERVED, 1000).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        assert_eq!(guest.poll(), None, "a reset is not answered");
        guest.connect(1000);
    });
}

fn a_host_that_hangs_up_shuts_the_connection_down(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut guest = Guest::new(kind, masked);
        let mut stream = guest.connect(1000);
        stream.write_all(b"last words").unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        let mut got = Vec::new();
        loop {
            let event = guest.event();
            got.extend(guest.receive(SERVED, 1000));
            if event.event_type == disconnected(DisconnectReason::Shutdown) {
                break;
            }
        }
        assert_eq!(got, b"last words");
    });
}

fn many_streams_do_not_mix(kind: TransportKind) {
    const STREAMS: u32 = 200;
    const EACH: usize = 20_000;
    let mut guest = Guest::new(kind, 0);
    let hosts: Vec<_> = (0..STREAMS)
        .map(|port| {
            let mut stream = guest.connect(port);
            // Echoes the data.
            thread::spawn(move || {
                let mut data = vec![0; EACH];
                stream.read_exact(&mut data).unwrap();
                stream.write_all(&data).unwrap();
                stream
            })
        })
        .collect();
    for port in 0..STREAMS {
        assert_eq!(guest.send(SERVED, port, &bytes(port as usize, EACH)), EACH);
    }
    let mut got = vec![Vec::new(); STREAMS as usize];
    while got.iter().any(|data| data.len() < EACH) {
        let port = guest.event().destination.port;
        let new = guest.receive(SERVED, port);
        got[port as usize].extend(new);
    }
    for (port, data) in got.iter().enumerate() {
        assert!(*data == bytes(port, EACH), "stream {port}");
    }
    hosts
        .into_iter()
        .for_each(|host| drop(host.join().unwrap()));
}
