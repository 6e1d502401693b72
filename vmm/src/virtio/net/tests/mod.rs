//! The network device, with the test driver and a backend that is a list of frames.

mod receiving;
mod refusing;
mod replacing;
mod sending;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::Segments;
use crate::virtio::testing::{BUFFERS, Driver, readable, writable};

/// The state of [`FakeBackend`], shared with the test.
#[derive(Debug, Default)]
struct State {
    incoming: VecDeque<(Header, Vec<u8>)>,
    outgoing: Vec<(Header, Vec<u8>)>,
    /// How many more frames it accepts.
    room: usize,
    up: bool,
    /// The last arguments of `set_interest`.
    interest: (bool, bool),
    rx_offloads: Offloads,
}

/// A backend with a list of frames in each direction.
#[derive(Debug)]
struct FakeBackend {
    state: Arc<Mutex<State>>,
    front: Vec<u8>,
    descriptor: OwnedFd,
}

const ALL: Offloads = Offloads {
    checksum: true,
    tso4: true,
    tso6: true,
};

impl Backend for FakeBackend {
    fn set_rx_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.state.lock().unwrap().rx_offloads = offloads;
        Ok(())
    }

    fn link_up(&self) -> bool {
        self.state.lock().unwrap().up
    }

    fn send(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome {
        let mut state = self.state.lock().unwrap();
        if !state.up {
            return SendOutcome::Dropped;
        }
        if state.room == 0 {
            return SendOutcome::Full;
        }
        state.room -= 1;
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        state.outgoing.push((header, bytes));
        SendOutcome::Accepted
    }

    fn front(&mut self) -> Option<Frame<'_>> {
        let state = self.state.lock().unwrap();
        let (header, data) = state.incoming.front()?;
        self.front = data.clone();
        Some(Frame {
            header: *header,
            data: &self.front,
        })
    }

    fn pop(&mut self) {
        self.state.lock().unwrap().incoming.pop_front();
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn set_interest(&mut self, receive: bool, send: bool) -> io::Result<()> {
        self.state.lock().unwrap().interest = (receive, send);
        Ok(())
    }
}

const MERGEABLE: u64 = 1 << 15;

/// An active device with these features, its driver, and the state of its backend.
fn active(features: u64) -> (Net, Driver, Arc<Mutex<State>>) {
    let state = Arc::new(Mutex::new(State {
        up: true,
        room: 1000,
        ..State::default()
    }));
    let backend = FakeBackend {
        state: Arc::clone(&state),
        front: Vec::new(),
        descriptor: std::fs::File::open("/dev/null").unwrap().into(),
    };
    let mac = Mac::new([2, 0, 0, 0, 0, 1]).unwrap();
    let mut device = Net::new(mac, Box::new(backend));
    assert_eq!(features & !device.features(), 0);
    let mut driver = Driver::new(&device, 4 << 20);
    device.acknowledge(features);
    device.activate(&mut driver).unwrap();
    (device, driver, state)
}

#[test]
fn negotiated_offloads_are_passed_to_the_backend() {
    let (_, _, state) = active(1 << 1 | 1 << 7);
    let rx = Offloads { tso6: false, ..ALL };
    assert_eq!(state.lock().unwrap().rx_offloads, rx);
}

#[test]
fn a_link_that_goes_down_is_reported_once_and_waiting_frames_are_dropped() {
    let (mut device, mut driver, state) = active(0);
    state.lock().unwrap().room = 0;
    driver.offer(TX, &[readable(BUFFERS, 12 + 60)]);
    device.queue_event(TX, &mut driver).unwrap();
    assert_eq!(driver.used(TX), []);
    assert_eq!(state.lock().unwrap().interest, (true, true));

    state.lock().unwrap().up = false;
    device.backend_event(&mut driver).unwrap();
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.config_changes, 1);
    assert_eq!(driver.used(TX).len(), 1);
    assert_eq!(device.counters().send_dropped(), 1);
    assert!(!state.lock().unwrap().interest.1);
    let mut status = [9; 2];
    device.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
}

#[test]
fn the_configuration_reads_as_zeros_beyond_its_end() {
    let (device, ..) = active(0);
    let mut bytes = [9; 8];
    device.read_config(8, &mut bytes);
    assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0]);
    device.read_config(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
}
