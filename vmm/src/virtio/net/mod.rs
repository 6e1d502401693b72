//! The network device (virtio 1.2 section 5.1): one pair of queues, no control queue.
//!
//! | file | what it answers |
//! |---|---|
//! | `config` | what the driver reads, and what it may choose |
//! | `header` | what precedes a frame, and when it is in order |
//! | `receive` | how a frame comes into the driver's buffers |
//! | `backend` | where frames go to and come from: a tap, or a stream socket |
//!
//! This file joins them to the queues: [`RX`] carries frames to the guest, [`TX`] from it.
//!
//! - *From the guest*, a frame is gathered from its buffers by one system call. While the backend
//!   takes none, frames stay in the queue, and the device waits for the backend alone.
//! - *To the guest*, a frame is received into a buffer of the backend's and copied from there, so
//!   that a frame for which there is no room stays whole. While the driver offers no buffers,
//!   nothing is received, and the device waits for the driver alone.
//! - A frame that is not in order is lost, and counted ([`Counters`]); so is one for which no
//!   buffers are enough. Only a ring that is broken is an error.
//! - When the other side goes the link goes down, once and for all; the driver is told.

mod backend;
mod config;
mod header;
mod receive;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_queue::QueueT;

pub use self::backend::{Backend, Frame, Offloads, SendOutcome, Stream, Tap, TapError};
use self::config::Negotiated;
pub use self::config::{MIN_MTU, Mac, NotUnicast, StaticConfig};
pub use self::header::{HEADER_LEN, Header, InvalidHeader, MAX_FRAME, MIN_FRAME};
use self::receive::{Placed, place};
use super::chain::Buffers;
use super::device::copy_config;
use super::serve::serve_queue_while;
use super::{DeviceError, DeviceIo, VirtioDevice};

/// The queue of frames to the guest (virtio 1.2 section 5.1.2).
pub const RX: usize = 0;
/// The queue of frames from the guest.
pub const TX: usize = 1;

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 1;

const QUEUE_SIZES: [u16; 2] = [256, 256];

/// The most frames to the guest in one event, before others get their turn.
const BATCH: usize = 256;

/// What became of frames, since the device was made.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    send_dropped: AtomicU64,
    received: AtomicU64,
    receive_dropped: AtomicU64,
}

impl Counters {
    /// Frames of the guest that the backend took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Frames of the guest that were not in order, or that the backend refused.
    pub fn send_dropped(&self) -> u64 {
        self.send_dropped.load(Ordering::Relaxed)
    }

    /// Frames that the guest got.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Frames that the guest could not get.
    pub fn receive_dropped(&self) -> u64 {
        self.receive_dropped.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An MTU is smaller than a device may tell of ([`MIN_MTU`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an MTU of {0} is smaller than any device may have")]
pub struct MtuTooSmall(u16);

/// The network device.
#[derive(Debug)]
pub struct Net {
    mac: Mac,
    mtu: Option<u16>,
    backend: Box<dyn Backend>,
    negotiated: Negotiated,
    /// The driver has no buffers for the next frame; it says when it has.
    rx_starved: bool,
    /// The backend takes no frame; it says when it does.
    tx_blocked: bool,
    /// What the driver reads of the link.
    link_up: bool,
    counters: Arc<Counters>,
}

impl Net {
    /// A device with this address, whose frames are the backend's.
    pub fn new(mac: Mac, backend: Box<dyn Backend>) -> Net {
        Net {
            mac,
            mtu: None,
            link_up: backend.link_up(),
            backend,
            negotiated: Negotiated::default(),
            rx_starved: false,
            tx_blocked: false,
            counters: Arc::default(),
        }
    }

    /// The same device, which tells the driver how long packets may be.
    ///
    /// # Errors
    /// When no device may tell of so little.
    pub fn with_mtu(mut self, mtu: u16) -> Result<Net, MtuTooSmall> {
        if mtu < MIN_MTU {
            return Err(MtuTooSmall(mtu));
        }
        self.mtu = Some(mtu);
        Ok(self)
    }

    /// What becomes of its frames, for as long as one likes to look.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Sends what the driver has made available, until the backend takes no more.
    fn send(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.tx_blocked = false;
        let Some((queue, mem)) = io.queue(TX) else {
            return Ok(());
        };
        let served = serve_queue_while(queue, mem, |buffers| {
            let sent = match buffers {
                Ok(buffers) => send_one(&mut *self.backend, buffers, self.negotiated),
                Err(_) => SendOutcome::Dropped,
            };
            match sent {
                SendOutcome::Accepted => count(&self.counters.sent),
                SendOutcome::Dropped => count(&self.counters.send_dropped),
                SendOutcome::Full => {
                    self.tx_blocked = true;
                    return None;
                }
            }
            Some(0)
        })?;
        served.notify(TX, io)
    }

    /// Gives the driver what the backend has received, until it has no buffers left.
    fn receive(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.rx_starved = false;
        let Some((queue, mem)) = io.queue(RX) else {
            self.rx_starved = true;
            return Ok(());
        };
        // Until there are too few, new buffers are nothing to be told of.
        queue.disable_notification(mem)?;
        let before = queue.next_used();
        let mut more = true;
        for _ in 0..BATCH {
            let Some(frame) = self.backend.front() else {
                more = false;
                break;
            };
            let placed = if frame.data.len() < MIN_FRAME {
                Placed::Dropped
            } else {
                place(queue, mem, &frame, self.negotiated)?
            };
            match placed {
                Placed::Used => count(&self.counters.received),
                Placed::Dropped => count(&self.counters.receive_dropped),
                Placed::NoBuffers => {
                    self.rx_starved = true;
                    more = false;
                    break;
                }
            }
            self.backend.pop();
        }
        if queue.next_used() != before {
            io.notify(RX)?;
        }
        if more {
            // Not left to the backend's descriptor: it may have frames that were received already.
            io.reschedule(RX);
        }
        Ok(())
    }

    /// After anything happened: tells of the link, and waits for what is needed.
    fn finish_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        if self.link_up && !self.backend.link_up() {
            self.link_up = false;
            io.config_changed();
            // What waited for the other side waits no more: it is lost.
            self.send(io)?;
        }
        self.backend
            .set_interest(!self.rx_starved, self.tx_blocked)?;
        Ok(())
    }
}

/// Sends the frame of one chain, if it is in order.
fn send_one(
    backend: &mut dyn Backend,
    buffers: Buffers<'_>,
    negotiated: Negotiated,
) -> SendOutcome {
    let mut header = buffers.readable;
    let frame = header.split_off(HEADER_LEN);
    let mut bytes = [0; HEADER_LEN];
    if header.copy_to(&mut bytes) != HEADER_LEN
        || !(MIN_FRAME..=MAX_FRAME).contains(&frame.len())
        || !buffers.writable.is_empty()
    {
        return SendOutcome::Dropped;
    }
    // The driver may change its copy meanwhile; the backend gets the one that was looked at.
    match Header::decode(&bytes).checked(frame.len(), negotiated.tx) {
        Ok(header) => backend.send(header, frame),
        Err(InvalidHeader) => SendOutcome::Dropped,
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn features(&self) -> u64 {
        config::features(self.backend.offloads(), self.mtu)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = config::config(self.mac, self.link_up, self.mtu);
        copy_config(&config, offset, data);
    }

    fn acknowledge(&mut self, features: u64) {
        self.negotiated = Negotiated::new(features);
    }

    fn activate(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.backend.set_rx_offloads(self.negotiated.rx)?;
        self.send(io)?;
        self.receive(io)?;
        self.finish_event(io)
    }

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        match index {
            RX => self.receive(io)?,
            TX => self.send(io)?,
            _ => {}
        }
        self.finish_event(io)
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.backend.poll_fd())
    }

    fn backend_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.backend.flush();
        if self.tx_blocked {
            self.send(io)?;
        }
        if !self.rx_starved {
            self.receive(io)?;
        }
        self.finish_event(io)
    }

    fn reset(&mut self) {
        self.negotiated = Negotiated::default();
        self.rx_starved = false;
        self.tx_blocked = false;
    }
}
