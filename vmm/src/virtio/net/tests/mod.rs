//! The device under the driver's side of `testing::Driver`, on a backend that is a list.

mod receiving;
mod sending;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::Segments;
use crate::virtio::testing::{BUFFERS, Driver, readable, writable};

/// What a test sees of [`FakeBackend`].
#[derive(Debug, Default)]
struct State {
    incoming: VecDeque<(Header, Vec<u8>)>,
    outgoing: Vec<(Header, Vec<u8>)>,
    /// How many more frames it takes.
    room: usize,
    up: bool,
    /// What it was last told to wait for.
    waits: (bool, bool),
    received: Offloads,
}

/// A backend that is a list of frames each way.
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
    fn offloads(&self) -> Offloads {
        ALL
    }

    fn set_rx_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.state.lock().unwrap().received = offloads;
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
        self.state.lock().unwrap().waits = (receive, send);
        Ok(())
    }
}

const MERGEABLE: u64 = 1 << 15;

/// A device whose driver chose these features and is ready, its driver, and the other side.
fn live(features: u64) -> (Net, Driver, Arc<Mutex<State>>) {
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
fn what_the_driver_chose_is_told_to_the_backend() {
    let (_, _, state) = live(1 << 1 | 1 << 7);
    let takes = Offloads { tso6: false, ..ALL };
    assert_eq!(state.lock().unwrap().received, takes);
}

#[test]
fn a_link_that_goes_down_is_told_once_and_what_waited_for_it_is_lost() {
    let (mut device, mut driver, state) = live(0);
    state.lock().unwrap().room = 0;
    driver.offer(TX, &[readable(BUFFERS, 12 + 60)]);
    device.queue_event(TX, &mut driver).unwrap();
    assert_eq!(driver.used(TX), []);
    assert_eq!(state.lock().unwrap().waits, (true, true));

    state.lock().unwrap().up = false;
    device.backend_event(&mut driver).unwrap();
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.config_changes, 1);
    assert_eq!(driver.used(TX).len(), 1);
    assert_eq!(device.counters().send_dropped(), 1);
    assert!(!state.lock().unwrap().waits.1);
    let mut status = [9; 2];
    device.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
}

#[test]
fn the_configuration_ends_in_zeros() {
    let (device, ..) = live(0);
    let mut bytes = [9; 8];
    device.read_config(8, &mut bytes);
    assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0]);
    device.read_config(u64::MAX, &mut bytes);
    assert_eq!(bytes, [0; 8]);
}
