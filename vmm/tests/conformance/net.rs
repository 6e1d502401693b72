//! The network device on a stream whose peer is the test.
#![allow(unsafe_code)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::thread;

use microagent_vmm::virtio::net::{Mac, Net, Stream, TX};
use virtio_drivers::Error;
use virtio_drivers::device::net::{TxBuffer, VirtIONet, VirtIONetRaw};
use virtio_drivers::transport::Transport;

use crate::memory::GuestPages;
use crate::transport::GuestTransport;
use crate::{
    InterruptStatus, Interrupts, TransportKind, on_every_transport, with_each_ring_feature_set,
};

on_every_transport!(
    configuration_and_features_are_as_specified,
    thousands_of_frames_pass_both_ways,
    no_frame_is_lost_when_the_peer_is_faster_than_the_driver,
    no_frame_is_lost_when_the_peer_does_not_read,
    the_link_goes_down_when_the_peer_disconnects,
    a_second_driver_can_take_over_the_device,
);

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const BUFFERS: usize = 16;

pub type Driver = VirtIONet<GuestPages, GuestTransport, BUFFERS>;

fn device() -> (Box<Net>, UnixStream) {
    let (peer, theirs) = UnixStream::pair().unwrap();
    let mac = Mac::new(MAC).unwrap();
    let backend = Stream::new(theirs).unwrap();
    (Box::new(Net::new(mac, Box::new(backend))), peer)
}

/// Frame number `n`; each differs in length and content.
fn frame(n: usize) -> Vec<u8> {
    let len = 14 + n * 37 % 1487;
    (0..len).map(|i| (i * 7 + n * 31) as u8).collect()
}

fn write_frame(peer: &mut UnixStream, frame: &[u8]) {
    let len = (frame.len() as u32).to_be_bytes();
    peer.write_all(&[&len, frame].concat()).unwrap();
}

fn read_frame(peer: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    peer.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

/// Waits for a frame.
fn receive(driver: &mut Driver, interrupts: &Interrupts) -> Vec<u8> {
    receive_matching(driver, interrupts, |_| true)
}

/// Waits for a frame that `matches`; others are dropped.
pub fn receive_matching(
    driver: &mut Driver,
    interrupts: &Interrupts,
    matches: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    loop {
        // See `block::finish_one`.
        fence(Ordering::SeqCst);
        match driver.receive() {
            Ok(buffer) => {
                let frame = buffer.packet().to_vec();
                driver.recycle_rx_buffer(buffer).unwrap();
                if matches(&frame) {
                    return frame;
                }
            }
            Err(Error::NotReady) => interrupts.wait(),
            Err(error) => panic!("{error}"),
        }
        let _: InterruptStatus = driver.ack_interrupt();
    }
}

fn configuration_and_features_are_as_specified(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (device, _peer) = device();
        let (attached, _) = kind.attach(Box::new(device.with_mtu(1400).unwrap()), masked, 1);
        let mut registers = attached.clone();
        let driver: Driver = VirtIONet::new(attached, 2048).unwrap();
        assert_eq!(driver.mac_address(), MAC);
        assert!(driver.can_send());
        let status: u16 = registers.read_config_space(6).unwrap();
        let pairs: u16 = registers.read_config_space(8).unwrap();
        let mtu: u16 = registers.read_config_space(10).unwrap();
        assert_eq!((status, pairs, mtu), (1, 1, 1400));
        // MTU, MAC, mergeable buffers, status, and the offloads of both directions.
        let offered = registers.read_device_features() & 0xff_ffff;
        let offloads = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
        assert_eq!(offered, offloads | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 16);
    });
}

fn thousands_of_frames_pass_both_ways(kind: TransportKind) {
    const COUNT: usize = 2000;
    with_each_ring_feature_set(|masked| {
        let (device, mut peer) = device();
        let counters = device.counters();
        let (device, interrupts) = kind.attach(device, masked, TX as u16);
        let mut driver: Driver = VirtIONet::new(device, 2048).unwrap();
        let echo = thread::spawn(move || {
            for n in 0..COUNT {
                let got = read_frame(&mut peer);
                assert!(got == frame(n), "frame {n}");
                write_frame(&mut peer, &got);
            }
            peer
        });
        for n in 0..COUNT {
            driver.send(TxBuffer::from(&frame(n))).unwrap();
            // Up to eight are in flight.
            if n >= 8 {
                assert!(
                    receive(&mut driver, &interrupts) == frame(n - 8),
                    "frame {n}"
                );
            }
        }
        for n in COUNT - 8..COUNT {
            assert!(receive(&mut driver, &interrupts) == frame(n), "frame {n}");
        }
        echo.join().unwrap();
        assert_eq!(counters.sent(), COUNT as u64);
        assert_eq!(counters.received(), COUNT as u64);
        assert_eq!(counters.send_dropped() + counters.receive_dropped(), 0);
    });
}

fn no_frame_is_lost_when_the_peer_is_faster_than_the_driver(kind: TransportKind) {
    const COUNT: usize = 1000;
    with_each_ring_feature_set(|masked| {
        let (device, mut peer) = device();
        let (device, interrupts) = kind.attach(device, masked, TX as u16);
        let mut driver: Driver = VirtIONet::new(device, 2048).unwrap();
        let writer = thread::spawn(move || {
            (0..COUNT).for_each(|n| write_frame(&mut peer, &frame(n)));
            peer
        });
        for n in 0..COUNT {
            assert!(receive(&mut driver, &interrupts) == frame(n), "frame {n}");
        }
        drop(writer.join().unwrap());
    });
}

fn no_frame_is_lost_when_the_peer_does_not_read(kind: TransportKind) {
    type Raw = VirtIONetRaw<GuestPages, GuestTransport, BUFFERS>;
    with_each_ring_feature_set(|masked| {
        let (device, mut peer) = device();
        let (device, interrupts) = kind.attach(device, masked, TX as u16);
        let mut driver: Raw = VirtIONetRaw::new(device.nonblocking()).unwrap();
        let frames: Vec<Vec<u8>> = (0..BUFFERS)
            .map(|n| vec![n as u8; 12 + 60_000])
            .map(|mut buffer| {
                driver.fill_buffer_header(&mut buffer).unwrap();
                buffer
            })
            .collect();
        let begin = |buffer: &Vec<u8>| {
            // SAFETY: needed because the driver keeps the buffer. It is not changed or moved until
            // it is passed to `transmit_complete`.
            unsafe { driver.transmit_begin(buffer) }.unwrap()
        };
        // More than the socket's buffer holds.
        let tokens: Vec<u16> = frames.iter().map(begin).collect();
        let reader = thread::spawn(move || {
            for n in 0..BUFFERS {
                assert!(read_frame(&mut peer) == vec![n as u8; 60_000], "frame {n}");
            }
            peer
        });
        for (token, buffer) in tokens.iter().zip(&frames) {
            loop {
                fence(Ordering::SeqCst);
                if driver.poll_transmit().is_some() {
                    break;
                }
                interrupts.wait();
                let _: InterruptStatus = driver.ack_interrupt();
            }
            assert_eq!(driver.poll_transmit(), Some(*token));
            // SAFETY: needed for the same reason. This buffer was passed to `transmit_begin` for
            // this token.
            unsafe { driver.transmit_complete(*token, buffer) }.unwrap();
        }
        drop(reader.join().unwrap());
    });
}

fn the_link_goes_down_when_the_peer_disconnects(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (device, peer) = device();
        let counters = device.counters();
        let (device, interrupts) = kind.attach(device, masked, TX as u16);
        let registers = device.clone();
        let mut driver: Driver = VirtIONet::new(device, 2048).unwrap();
        drop(peer);
        if kind == TransportKind::Mmio {
            // The vhost-user back end does not report configuration changes.
            interrupts.wait();
            let changed = InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT;
            assert!(driver.ack_interrupt() == changed);
        }
        // Returned to the driver, but dropped.
        driver.send(TxBuffer::from(&frame(0))).unwrap();
        driver.send(TxBuffer::from(&frame(1))).unwrap();
        let status: u16 = registers.read_config_space(6).unwrap();
        assert_eq!(status, 0);
        assert_eq!((counters.sent(), counters.send_dropped()), (0, 2));
    });
}

fn a_second_driver_can_take_over_the_device(kind: TransportKind) {
    let (device, mut peer) = device();
    let (device, interrupts) = kind.attach(device, 0, TX as u16);
    for round in 0..3 {
        let mut driver: Driver = VirtIONet::new(device.clone(), 2048).unwrap();
        driver.send(TxBuffer::from(&frame(round))).unwrap();
        assert!(read_frame(&mut peer) == frame(round));
        write_frame(&mut peer, &frame(round + 50));
        assert!(receive(&mut driver, &interrupts) == frame(round + 50));
    }
}
