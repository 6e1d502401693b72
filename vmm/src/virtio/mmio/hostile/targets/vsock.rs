//! The socket device, and the host's ends of its streams.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

use super::super::harness::{BUFFERS, Harness};
use super::super::input::Input;
use super::Target;
use crate::virtio::testing::registers::{QUEUE_NOTIFY, Registers};
use crate::virtio::testing::{readable, writable};
use crate::virtio::vsock::packet::{HEADER_LEN, Header, Op, TYPE_STREAM};
use crate::virtio::vsock::{HOST_CID, RX, Services, TX, Vsock, VsockHandle};

const CID: u32 = 3;
const SERVICE: u32 = 7;
/// The maximum number of connections from the host: fewer than the buffers in `assert_serves`.
const MAX_CONNECTS: usize = 8;

/// The host side of the socket device.
#[derive(Debug)]
pub struct VsockTarget {
    handle: VsockHandle,
    accepted: Receiver<UnixStream>,
    streams: Vec<UnixStream>,
    connects: usize,
}

impl VsockTarget {
    pub fn new() -> (VsockTarget, Vsock) {
        let (sender, accepted) = mpsc::channel();
        let services = Services::new().with(SERVICE, move |stream| {
            // The receiver is gone when the run is over.
            let _ = sender.send(stream);
        });
        let (device, handle) = Vsock::new(CID, services).expect("file descriptors");
        let target = VsockTarget {
            handle,
            accepted,
            streams: Vec::new(),
            connects: 0,
        };
        (target, device)
    }
}

fn header(ports: (u32, u32), len: u32, op: u16, flags: u32, credit: (u32, u32)) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST_CID,
        src_port: ports.0,
        dst_port: ports.1,
        len,
        kind: TYPE_STREAM,
        op,
        flags,
        buf_alloc: credit.0,
        fwd_cnt: credit.1,
    }
}

impl Target for VsockTarget {
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness) {
        let head = input.byte().into();
        if input.byte() & 1 == 0 {
            let at = BUFFERS + 0x4000 + 64 * u64::from(input.byte());
            return harness.offer(RX, head, &[writable(at, input.short().into())]);
        }
        let at = BUFFERS + 64 * u64::from(input.byte() % 64);
        let port = match input.byte() {
            port @ 0..200 => SERVICE + u32::from(port & 1),
            port => (1 << 30) + u32::from(port % 8),
        };
        let ports = (u32::from(input.byte() % 4), port);
        let len = u32::from(input.short());
        let op = u16::from(input.byte() % 9);
        let credit = match input.byte() & 3 {
            0 => (input.word(), input.word()),
            _ => (1 << 18, input.byte().into()),
        };
        let header = header(ports, len, op, input.byte().into(), credit);
        harness.put(at, &header.encode());
        let body = if input.byte() & 7 == 0 {
            input.short().into()
        } else {
            len
        };
        let buffers = [readable(at, HEADER_LEN as u32), readable(BUFFERS, body)];
        harness.offer(TX, head, &buffers);
    }

    fn host_event(&mut self, input: &mut Input<'_>) {
        for stream in self.accepted.try_iter() {
            // Writes below must not block.
            let _ = stream.set_nonblocking(true);
            self.streams.push(stream);
        }
        let choice = input.byte();
        if choice & 7 == 0 && self.connects < MAX_CONNECTS {
            self.connects += 1;
            let (ours, theirs) = UnixStream::pair().expect("file descriptors");
            let _ = ours.set_nonblocking(true);
            self.streams.push(ours);
            return self.handle.connect(input.byte().into(), theirs);
        }
        let count = self.streams.len();
        let Some(stream) = self
            .streams
            .get_mut(usize::from(input.byte()) % count.max(1))
        else {
            return;
        };
        // The other end may be closed or full.
        match choice & 7 {
            1..4 => drop(stream.write(&vec![choice; input.short().into()])),
            4 | 5 => drop(stream.read(&mut vec![0; input.short().into()])),
            6 => drop(stream.shutdown(Shutdown::Write)),
            _ => drop(self.streams.swap_remove(usize::from(input.byte()) % count)),
        }
    }

    fn assert_serves(&mut self, harness: &mut Harness) {
        let at = |n: u16| BUFFERS + 0x400 + 0x100 * u64::from(n);
        for n in 0..16 {
            harness.put(at(n), &[0; HEADER_LEN]);
            harness.offer(RX, n, &[writable(at(n), 0x100)]);
        }
        let request = header((1000, 9999), 0, Op::Request as u16, 0, (1 << 18, 0));
        harness.put(BUFFERS, &request.encode());
        harness.offer(TX, 0, &[readable(BUFFERS, HEADER_LEN as u32)]);
        for queue in [RX, TX] {
            harness.write_register(QUEUE_NOTIFY, queue as u32);
        }
        harness.run_worker();
        harness.run_worker();
        assert_eq!(harness.ring(TX).used_index(), 1);
        let refused = (0..16).any(|n| {
            let packet = Header::decode(&harness.get(at(n)));
            let ports = (packet.src_port, packet.dst_port);
            ports == (9999, 1000) && packet.op == Op::Reset as u16
        });
        assert!(refused, "a request for a port without a service");
    }
}
