//! Replacing the backend.

use std::io::Read;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::virtio::testing::net::{frame_buffers, framed};

fn stream() -> (UnixStream, Box<Stream>) {
    let (peer, ours) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    (peer, Box::new(Stream::new(ours).unwrap()))
}

fn is_readable(device: &Net) -> bool {
    let fd = device.backend_fd().unwrap();
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
}

fn link(device: &Net) -> u8 {
    let mut status = [0];
    device.read_config(6, &mut status);
    status[0]
}

#[test]
fn another_backend_brings_the_link_up_again_and_gets_the_frames() {
    let (first, backend) = stream();
    let mac = Mac::new([2, 0, 0, 0, 0, 1]).unwrap();
    let (mut device, slot) = Net::new(mac, backend).with_slot().unwrap();
    let mut driver = Driver::new(&device, 4 << 20);
    device.acknowledge(0);
    device.activate(&mut driver).unwrap();
    driver.offer(RX, &[writable(BUFFERS, 2000)]);
    device.queue_event(RX, &mut driver).unwrap();
    assert!(!is_readable(&device));

    drop(first);
    assert!(is_readable(&device));
    device.backend_event(&mut driver).unwrap();
    assert_eq!((link(&device), driver.config_changes), (0, 1));
    assert!(!is_readable(&device));

    let (second, backend) = stream();
    slot.attach(backend);
    assert!(is_readable(&device));
    device.backend_event(&mut driver).unwrap();
    assert_eq!((link(&device), driver.config_changes), (1, 2));
    assert!(!is_readable(&device));

    let at = BUFFERS + 0x1_0000;
    driver.write(at, &[0; 64]);
    driver.offer(TX, &frame_buffers(at, at + 64, 20));
    device.queue_event(TX, &mut driver).unwrap();
    let mut got = [0; 64];
    let count = (&second).read(&mut got).unwrap();
    assert_eq!(got[..count], framed(&[0; 20]));
    std::io::Write::write_all(&mut &second, &framed(&[7; 30])).unwrap();
    assert!(is_readable(&device));
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.used(RX).len(), 1);
    assert_eq!(device.counters().received_bytes(), 30);
    assert_eq!(device.counters().sent_bytes(), 20);
}

#[test]
fn a_backend_that_is_attached_while_the_device_is_inactive_is_used() {
    let (_first, backend) = stream();
    let mac = Mac::new([2, 0, 0, 0, 0, 1]).unwrap();
    let (mut device, slot) = Net::new(mac, backend).with_slot().unwrap();
    let (second, backend) = stream();
    slot.attach(backend);
    let mut driver = Driver::new(&device, 4 << 20);
    device.acknowledge(0);
    driver.write(BUFFERS, &[0; 64]);
    driver.offer(TX, &frame_buffers(BUFFERS, BUFFERS + 64, 20));
    device.activate(&mut driver).unwrap();
    let mut got = [0; 64];
    let count = (&second).read(&mut got).unwrap();
    assert_eq!(got[..count], framed(&[0; 20]));
}

#[test]
fn a_checksum_that_the_driver_left_out_is_computed_for_a_stream() {
    let (peer, mut backend) = stream();
    let header = Header {
        flags: 1,
        csum_start: 14,
        csum_offset: 6,
        ..Header::default()
    };
    let mut frame: Vec<u8> = (0..61).collect();
    let segments = Segments::from(vm_memory::VolatileSlice::from(&mut frame[..]));
    assert_eq!(backend.send(header, segments), SendOutcome::Accepted);
    let mut expected: Vec<u8> = (0..61).collect();
    let sum = expected[14..]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = sum.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    expected[20..22].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut got = [0; 80];
    let count = (&peer).read(&mut got).unwrap();
    assert_eq!(got[..count], framed(&expected));
}
