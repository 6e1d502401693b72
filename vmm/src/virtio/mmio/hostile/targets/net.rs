//! The network device on a stream, and a peer that is hostile too.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::harness::{BUFFERS, Harness};
use super::super::input::Input;
use super::Target;
use crate::virtio::net::{HEADER_LEN, Mac, Net, RX, Stream, TX};
use crate::virtio::testing::net::{frame_buffers, framed};
use crate::virtio::testing::registers::{QUEUE_NOTIFY, Registers};
use crate::virtio::testing::writable;

/// The peer of the network device.
#[derive(Debug)]
pub struct NetTarget {
    /// `None` once it has disconnected.
    peer: Option<UnixStream>,
    /// The peer has written only whole frames; otherwise the device may have closed the link.
    well_formed: bool,
}

impl NetTarget {
    pub fn new() -> (NetTarget, Net) {
        let (peer, theirs) = UnixStream::pair().expect("file descriptors");
        peer.set_nonblocking(true).expect("a socket");
        let backend = Stream::new(theirs).expect("file descriptors");
        let mac = Mac::new([2, 0, 0, 0, 0, 1]).expect("a unicast address");
        let target = NetTarget {
            peer: Some(peer),
            well_formed: true,
        };
        (target, Net::new(mac, Box::new(backend)))
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            // A partial write ends within a frame.
            self.well_formed &= peer.write(bytes).ok() == Some(bytes.len());
        }
    }

    fn read_all(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        if let Some(peer) = &mut self.peer {
            // Ends with an error, because the device has not closed its end.
            let _ = peer.read_to_end(&mut got);
        }
        got
    }
}

impl Target for NetTarget {
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness) {
        let head = input.byte().into();
        if input.byte() & 1 == 0 {
            let at = BUFFERS + 0x4000 + 64 * u64::from(input.byte());
            return harness.offer(RX, head, &[writable(at, input.short().into())]);
        }
        let at = BUFFERS + 64 * u64::from(input.byte());
        let mut header = [0; HEADER_LEN];
        if input.byte() == 255 {
            header = input.array();
        }
        harness.put(at, &header);
        let len = u32::from(input.short());
        harness.offer(TX, head, &frame_buffers(at, BUFFERS, len));
    }

    fn host_event(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..9 => {
                let len = usize::from(input.byte()) << (input.byte() % 8);
                self.write(&framed(&vec![0x5a; len.max(1)]));
            }
            9..13 => drop(self.read_all()),
            13 => {
                self.well_formed = false;
                let count = usize::from(input.byte() % 9);
                self.write(&input.array::<8>()[..count.min(8)]);
            }
            14 => {
                self.well_formed = false;
                let len = input.word();
                self.write(&len.to_be_bytes());
            }
            _ if input.byte() & 3 == 0 => self.peer = None,
            _ => {}
        }
    }

    fn assert_serves(&mut self, harness: &mut Harness) {
        // Make room for data that is still in flight.
        self.read_all();
        let at = |n: u16| BUFFERS + 0x800 * u64::from(n);
        harness.put(BUFFERS, &[0; HEADER_LEN]);
        harness.put(BUFFERS + 64, b"a frame to the peer");
        harness.offer(TX, 0, &frame_buffers(BUFFERS, BUFFERS + 64, 19));
        harness.write_register(QUEUE_NOTIFY, TX as u32);
        harness.run_worker();
        harness.run_worker();
        assert_eq!(harness.ring(TX).used_index(), 1, "a frame was not taken");
        if !self.well_formed || self.peer.is_none() {
            return;
        }
        let got = self.read_all();
        assert!(got.ends_with(&framed(b"a frame to the peer")));
        self.write(&framed(b"a frame to the guest"));
        if !self.well_formed {
            return;
        }
        // Frames of the script arrive first. Without mergeable buffers, those that are longer than
        // a buffer are dropped.
        for _ in 0..1000 {
            harness.start(0, 5);
            for n in 0..32 {
                harness.put(at(n + 1), &[0; 64]);
                harness.offer(RX, n, &[writable(at(n + 1), 0x800)]);
            }
            harness.write_register(QUEUE_NOTIFY, RX as u32);
            harness.run_worker();
            let found = (0..harness.ring(RX).used_index()).any(|n| {
                let received: [u8; 20] = harness.get(at(n + 1) + HEADER_LEN as u64);
                received == *b"a frame to the guest"
            });
            if found {
                return;
            }
        }
        panic!("a frame was lost");
    }
}
