//! The network device's requests, and a peer on its stream that keeps no rule either.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::devices::Subject;
use super::machine::{BUFFERS, Machine};
use super::script::Bytes;
use crate::virtio::net::{HEADER_LEN, Mac, Net, RX, Stream, TX};

/// The peer of a network device.
#[derive(Debug)]
pub struct Link {
    /// Gone once it hung up.
    peer: Option<UnixStream>,
    /// A peer that wrote anything but whole frames may have lost the device's trust.
    polite: bool,
}

impl Link {
    pub fn new() -> (Link, Net) {
        let (peer, theirs) = UnixStream::pair().expect("descriptors for a test");
        peer.set_nonblocking(true).expect("a socket of ours");
        let backend = Stream::new(theirs).expect("descriptors for a test");
        let mac = Mac::new([2, 0, 0, 0, 0, 1]).expect("one station's");
        let link = Link {
            peer: Some(peer),
            polite: true,
        };
        (link, Net::new(mac, Box::new(backend)))
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            // What is not taken whole leaves the stream within a frame.
            self.polite &= peer.write(bytes).ok() == Some(bytes.len());
        }
    }

    fn read_all(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        if let Some(peer) = &mut self.peer {
            // It ends with an error, for the device still has its end.
            let _ = peer.read_to_end(&mut got);
        }
        got
    }
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

impl Subject for Link {
    fn request(&mut self, bytes: &mut Bytes<'_>, machine: &Machine, size: u16) {
        let head = bytes.byte().into();
        if bytes.byte() & 1 == 0 {
            let at = BUFFERS + 0x4000 + 64 * u64::from(bytes.byte());
            return machine.offer(RX, size, head, &[(at, bytes.short().into(), true)]);
        }
        let at = BUFFERS + 64 * u64::from(bytes.byte());
        let mut header = [0; HEADER_LEN];
        if bytes.byte() == 255 {
            header = bytes.array();
        }
        machine.put(at, &header);
        let len = u32::from(bytes.short());
        machine.offer(TX, size, head, &[(at, 12, false), (BUFFERS, len, false)]);
    }

    fn host(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 16 {
            0..9 => {
                let len = usize::from(bytes.byte()) << (bytes.byte() % 8);
                self.write(&framed(&vec![0x5a; len.max(1)]));
            }
            9..13 => drop(self.read_all()),
            13 => {
                self.polite = false;
                let count = usize::from(bytes.byte() % 9);
                self.write(&bytes.array::<8>()[..count.min(8)]);
            }
            14 => {
                self.polite = false;
                let len = bytes.word();
                self.write(&len.to_be_bytes());
            }
            _ if bytes.byte() & 3 == 0 => self.peer = None,
            _ => {}
        }
    }

    fn is_served(&mut self, machine: &mut Machine) {
        // What was on its way before, in both directions, goes first: give it room.
        self.read_all();
        let at = |n: u16| BUFFERS + 0x800 * u64::from(n);
        machine.put(BUFFERS, &[0; HEADER_LEN]);
        machine.put(BUFFERS + 64, b"a frame to the peer");
        let frame = (BUFFERS + 64, 19, false);
        machine.offer(TX, 32, 0, &[(BUFFERS, 12, false), frame]);
        machine.set(0x50, TX as u32);
        machine.settle();
        machine.settle();
        assert_eq!(machine.used(TX), 1, "a frame was not taken");
        if !self.polite || self.peer.is_none() {
            return;
        }
        let got = self.read_all();
        assert!(got.ends_with(&framed(b"a frame to the peer")));
        self.write(&framed(b"a frame to the guest"));
        if !self.polite {
            return;
        }
        // However many there were before, this one comes after them. Buffers are not merged, so
        // those that are longer than a buffer are lost.
        for _ in 0..1000 {
            machine.begin(0, 5);
            for n in 0..32 {
                machine.put(at(n + 1), &[0; 64]);
                machine.offer(RX, 32, n, &[(at(n + 1), 0x800, true)]);
            }
            machine.set(0x50, RX as u32);
            machine.settle();
            let found = (0..machine.used(RX)).any(|n| {
                let received: [u8; 20] = machine.take(at(n + 1) + HEADER_LEN as u64);
                received == *b"a frame to the guest"
            });
            if found {
                return;
            }
        }
        panic!("a frame was lost");
    }
}
