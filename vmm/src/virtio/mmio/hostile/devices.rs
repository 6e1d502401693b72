//! What is particular to each device: its requests, its host's side, and how one sees that it works.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

use rustix::fs::{MemfdFlags, memfd_create};

use super::machine::{BUFFERS, Machine};
use super::script::Bytes;
use crate::virtio::block::{Backend, Block, Overlay, Raw, SECTOR};
use crate::virtio::vsock::{HOST_CID, RX, Services, TX, Vsock, VsockHandle};

/// A device under a driver that keeps no rule.
pub trait Subject {
    /// A request that has the form of one, in queues of this size.
    fn request(&mut self, bytes: &mut Bytes<'_>, machine: &Machine, size: u16);

    /// Something happens on the host's side.
    fn host(&mut self, _bytes: &mut Bytes<'_>) {}

    /// Panics unless the device, just begun anew with queues of 32 entries, serves a request, or
    /// if something has changed that must not.
    fn is_served(&mut self, machine: &mut Machine);
}

/// The entropy device.
#[derive(Debug)]
pub struct Entropy;

impl Subject for Entropy {
    fn request(&mut self, bytes: &mut Bytes<'_>, machine: &Machine, size: u16) {
        let at = BUFFERS + 64 * u64::from(bytes.byte());
        machine.offer(
            0,
            size,
            bytes.byte().into(),
            &[(at, bytes.short().into(), true)],
        );
    }

    fn is_served(&mut self, machine: &mut Machine) {
        machine.put(BUFFERS, &[0; 64]);
        machine.offer(0, 32, 0, &[(BUFFERS, 64, true)]);
        machine.set(0x50, 0);
        machine.settle();
        assert_eq!(machine.used(0), 1);
        assert_ne!(machine.take(BUFFERS), [0; 64]);
    }
}

const SECTORS: u64 = 64;

/// A disk, and the file that must stay as it was, if there is one.
#[derive(Debug)]
pub struct Disk {
    unchanged: Option<File>,
}

fn file(content: &[u8]) -> File {
    let file = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file for a test");
    let file = File::from(file);
    file.write_all_at(content, 0).expect("memory for a test");
    file
}

fn content() -> Vec<u8> {
    (0..SECTORS * SECTOR)
        .map(|i| (i / SECTOR) as u8 | 0x80)
        .collect()
}

impl Disk {
    pub fn new(kind: u8) -> (Disk, Block) {
        let image = file(&content());
        let same = image.try_clone().expect("a descriptor for a test");
        let len = SECTORS * SECTOR;
        let (backend, unchanged): (Box<dyn Backend>, _) = match kind % 3 {
            0 => {
                let overlay = Overlay::new(image, len, file(&[]));
                (Box::new(overlay.expect("memory for a test")), Some(same))
            }
            1 => (Box::new(Raw::new(image, len, true)), Some(same)),
            _ => (Box::new(Raw::new(image, len, false)), None),
        };
        (Disk { unchanged }, Block::new(backend, "hostile"))
    }
}

impl Subject for Disk {
    fn request(&mut self, bytes: &mut Bytes<'_>, machine: &Machine, size: u16) {
        let header = BUFFERS + 64 * u64::from(bytes.byte() % 8);
        let kind = match bytes.byte() {
            255 => bytes.word(),
            kind => u32::from(kind % 16),
        };
        let sector = match bytes.byte() {
            255 => bytes.long(),
            sector => u64::from(sector % 80),
        };
        machine.put(header, &kind.to_le_bytes());
        machine.put(header + 8, &sector.to_le_bytes());
        let data = BUFFERS + 0x1000 + 64 * u64::from(bytes.byte());
        let len = match bytes.byte() {
            ranges @ 0..64 => {
                // A list of ranges; what is beyond the first is what happens to be there.
                machine.put(data, &u64::from(bytes.byte()).to_le_bytes());
                machine.put(
                    data + 8,
                    &[bytes.byte(), 0, 0, 0, bytes.byte() % 3, 0, 0, 0],
                );
                16 * u32::from(ranges % 20)
            }
            sectors => 512 * u32::from(sectors % 20),
        };
        let status = BUFFERS + 0x200;
        let pieces = [
            (header, 16, false),
            (data, len, kind % 2 == 0),
            (status, 1, true),
        ];
        machine.offer(0, size, bytes.byte().into(), &pieces);
    }

    fn is_served(&mut self, machine: &mut Machine) {
        machine.put(BUFFERS, &[0; 16]);
        machine.put(BUFFERS + 0x2000, &[0xee]);
        let data = (BUFFERS + 0x1000, 512, true);
        let status = (BUFFERS + 0x2000, 1, true);
        machine.offer(0, 32, 0, &[(BUFFERS, 16, false), data, status]);
        machine.set(0x50, 0);
        machine.settle();
        assert_eq!(machine.used(0), 1);
        assert_eq!(machine.take(BUFFERS + 0x2000), [0], "the status");
        if let Some(file) = &self.unchanged {
            let mut now = vec![0; content().len()];
            file.read_exact_at(&mut now, 0).expect("as long as before");
            assert!(now == content(), "what is only read was written");
        }
    }
}

const CID: u32 = 3;
const SERVICE: u32 = 7;
/// How many streams the host begins at most: fewer than the buffers that the last check offers.
const MAX_CONNECTS: usize = 8;

/// The host's side of the socket device.
#[derive(Debug)]
pub struct Sockets {
    handle: VsockHandle,
    accepted: Receiver<UnixStream>,
    streams: Vec<UnixStream>,
    connects: usize,
}

impl Sockets {
    pub fn new() -> (Sockets, Vsock) {
        let (sender, accepted) = mpsc::channel();
        let services = Services::new().with(SERVICE, move |stream| {
            // Nobody listens any more when the run is over.
            let _ = sender.send(stream);
        });
        let (device, handle) = Vsock::new(CID, services).expect("descriptors for a test");
        let sockets = Sockets {
            handle,
            accepted,
            streams: Vec::new(),
            connects: 0,
        };
        (sockets, device)
    }
}

/// `struct virtio_vsock_hdr` (virtio 1.2 section 5.10.6).
fn header(ports: (u32, u32), len: u32, op: u16, flags: u32, credit: (u32, u32)) -> [u8; 44] {
    let mut header = [0; 44];
    let fields: [(usize, &[u8]); 10] = [
        (0, &u64::from(CID).to_le_bytes()),
        (8, &HOST_CID.to_le_bytes()),
        (16, &ports.0.to_le_bytes()),
        (20, &ports.1.to_le_bytes()),
        (24, &len.to_le_bytes()),
        (28, &1u16.to_le_bytes()),
        (30, &op.to_le_bytes()),
        (32, &flags.to_le_bytes()),
        (36, &credit.0.to_le_bytes()),
        (40, &credit.1.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        header[at..at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

impl Subject for Sockets {
    fn request(&mut self, bytes: &mut Bytes<'_>, machine: &Machine, size: u16) {
        let head = bytes.byte().into();
        if bytes.byte() & 1 == 0 {
            let at = BUFFERS + 0x4000 + 64 * u64::from(bytes.byte());
            return machine.offer(RX, size, head, &[(at, bytes.short().into(), true)]);
        }
        let at = BUFFERS + 64 * u64::from(bytes.byte() % 64);
        let port = match bytes.byte() {
            port @ 0..200 => SERVICE + u32::from(port & 1),
            port => (1 << 30) + u32::from(port % 8),
        };
        let ports = (u32::from(bytes.byte() % 4), port);
        let len = u32::from(bytes.short());
        let op = u16::from(bytes.byte() % 9);
        let credit = match bytes.byte() & 3 {
            0 => (bytes.word(), bytes.word()),
            _ => (1 << 18, bytes.byte().into()),
        };
        machine.put(at, &header(ports, len, op, bytes.byte().into(), credit));
        let body = if bytes.byte() & 7 == 0 {
            bytes.short().into()
        } else {
            len
        };
        machine.offer(TX, size, head, &[(at, 44, false), (BUFFERS, body, false)]);
    }

    fn host(&mut self, bytes: &mut Bytes<'_>) {
        for stream in self.accepted.try_iter() {
            // Every accepted stream is one that does not block.
            let _ = stream.set_nonblocking(true);
            self.streams.push(stream);
        }
        let choice = bytes.byte();
        if choice & 7 == 0 && self.connects < MAX_CONNECTS {
            self.connects += 1;
            let (ours, theirs) = UnixStream::pair().expect("descriptors for a test");
            let _ = ours.set_nonblocking(true);
            self.streams.push(ours);
            return self.handle.connect(bytes.byte().into(), theirs);
        }
        let count = self.streams.len();
        let Some(stream) = self
            .streams
            .get_mut(usize::from(bytes.byte()) % count.max(1))
        else {
            return;
        };
        // The other end may be gone, and may take nothing.
        match choice & 7 {
            1..4 => drop(stream.write(&vec![choice; bytes.short().into()])),
            4 | 5 => drop(stream.read(&mut vec![0; bytes.short().into()])),
            6 => drop(stream.shutdown(Shutdown::Write)),
            _ => drop(self.streams.swap_remove(usize::from(bytes.byte()) % count)),
        }
    }

    fn is_served(&mut self, machine: &mut Machine) {
        let at = |n: u16| BUFFERS + 0x400 + 0x100 * u64::from(n);
        for n in 0..16 {
            machine.put(at(n), &[0; 44]);
            machine.offer(RX, 32, n, &[(at(n), 0x100, true)]);
        }
        let request = header((1000, 9999), 0, 1, 0, (1 << 18, 0));
        machine.put(BUFFERS, &request);
        machine.offer(TX, 32, 0, &[(BUFFERS, 44, false)]);
        for queue in [RX, TX] {
            machine.set(0x50, queue as u32);
        }
        machine.settle();
        machine.settle();
        assert_eq!(machine.used(TX), 1);
        let refused = (0..16).any(|n| {
            let packet: [u8; 44] = machine.take(at(n));
            // From port 9999 to port 1000: a reset.
            packet[16..24] == [0x0f, 0x27, 0, 0, 0xe8, 3, 0, 0] && packet[30] == 3
        });
        assert!(refused, "a request for a port without a service");
    }
}
