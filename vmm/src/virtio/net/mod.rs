//! The network device (virtio 1.2 section 5.1): one pair of queues, no control queue.
//!
//! | file | contents |
//! |---|---|
//! | `config` | configuration space and features |
//! | `header` | the header of a frame, and its validation |
//! | `checksum` | the checksum that a frame's sender left to others |
//! | `receive` | copying a received frame to the driver's buffers |
//! | `backend` | the host side: a TAP interface, or a stream socket |
//! | `egress` | what the guest's policy lets pass |
//! | `slot` | replacing the backend |
//!
//! This file connects them to the queues: [`RX`] carries frames to the guest, [`TX`] from the
//! guest.
//!
//! - *TX*: one system call gathers a frame from its buffers. If the backend is full, frames stay in
//!   the queue, and the device waits for the backend only.
//! - *RX*: a frame is received into a buffer of the backend and copied from there, so a frame that
//!   does not fit yet is kept. If the driver has no buffers available, nothing is received, and the
//!   device waits for the driver only.
//! - An invalid frame, or one that can never fit, is dropped and counted ([`Counters`]). Only an
//!   invalid ring is an error.
//! - If the backend disconnects, the link goes down, and the driver is notified; with another backend
//!   ([`Slot`]) it goes up again.

mod backend;
mod checksum;
mod config;
mod egress;
mod header;
mod receive;
mod slot;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_queue::QueueT;

pub use self::backend::{Backend, Frame, Offloads, SendOutcome, Stream, Tap, TapError};
use self::config::Negotiated;
pub use self::config::{MIN_MTU, Mac, NotUnicast, StaticConfig};
use self::egress::Egress;
pub use self::egress::{SharedFilter, lock};
pub use self::header::{HEADER_LEN, Header, InvalidHeader, MAX_FRAME, MIN_FRAME};
use self::receive::{Placed, place};
use self::slot::Inlet;
pub use self::slot::Slot;
use super::chain::Buffers;
use super::device::copy_config;
use super::serve::serve_queue_while;
use super::{DeviceError, DeviceIo, Segments, VirtioDevice};

/// The queue of frames to the guest (virtio 1.2 section 5.1.2).
pub const RX: usize = 0;
/// The queue of frames from the guest.
pub const TX: usize = 1;

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 1;

const QUEUE_SIZES: [u16; 2] = [256, 256];

/// The maximum number of frames to the guest in one event, so that other events are handled too.
const BATCH: usize = 256;

/// Counts of frames since the device was created.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    send_dropped: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    receive_dropped: AtomicU64,
}

impl Counters {
    /// Frames from the guest that the backend accepted.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The bytes of these frames.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Frames from the guest that were invalid, or that the backend dropped.
    pub fn send_dropped(&self) -> u64 {
        self.send_dropped.load(Ordering::Relaxed)
    }

    /// Frames delivered to the guest.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The bytes of these frames.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Frames for the guest that were dropped.
    pub fn receive_dropped(&self) -> u64 {
        self.receive_dropped.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    add(counter, 1);
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// An MTU is below [`MIN_MTU`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("MTU {0} is below the minimum of {MIN_MTU}")]
pub struct MtuTooSmall(u16);

/// The network device.
#[derive(Debug)]
pub struct Net {
    mac: Mac,
    mtu: Option<u16>,
    backend: Box<dyn Backend>,
    inlet: Option<Inlet>,
    egress: Option<Egress>,
    negotiated: Negotiated,
    /// The driver has too few buffers for the next frame; it notifies the device of more.
    rx_starved: bool,
    /// The backend is full; `poll_fd` is readable when it has room.
    tx_blocked: bool,
    /// The link status in the configuration space.
    link_up: bool,
    counters: Arc<Counters>,
}

impl Net {
    /// A device with this address and backend.
    pub fn new(mac: Mac, backend: Box<dyn Backend>) -> Net {
        Net {
            mac,
            mtu: None,
            link_up: backend.link_up(),
            backend,
            inlet: None,
            egress: None,
            negotiated: Negotiated::default(),
            rx_starved: false,
            tx_blocked: false,
            counters: Arc::default(),
        }
    }

    /// Sets the MTU that the device reports (`VIRTIO_NET_F_MTU`).
    ///
    /// # Errors
    /// When it is below [`MIN_MTU`].
    pub fn with_mtu(mut self, mtu: u16) -> Result<Net, MtuTooSmall> {
        if mtu < MIN_MTU {
            return Err(MtuTooSmall(mtu));
        }
        self.mtu = Some(mtu);
        Ok(self)
    }

    /// Lets pass only those frames of the guest that `filter` allows.
    pub fn with_filter(mut self, filter: SharedFilter) -> Net {
        self.egress = Some(Egress::new(filter));
        self
    }

    /// A device whose backend can be replaced through the [`Slot`].
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn with_slot(mut self) -> io::Result<(Net, Slot)> {
        let inlet = Inlet::new(&*self.backend)?;
        let slot = inlet.slot();
        self.inlet = Some(inlet);
        Ok((self, slot))
    }

    /// The device's counters, which stay readable after the device is gone.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Sends available frames until the queue is empty or the backend is full.
    fn send(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.tx_blocked = false;
        let Some((queue, mem)) = io.queue(TX) else {
            return Ok(());
        };
        if let Some(egress) = &mut self.egress
            && !egress.flush(&mut *self.backend)
        {
            self.tx_blocked = true;
            return Ok(());
        }
        let served = serve_queue_while(queue, mem, |buffers| {
            let (sent, len) = match buffers {
                Ok(buffers) => {
                    let len = buffers.readable.len().saturating_sub(HEADER_LEN);
                    let sent = match check_header(buffers, self.negotiated) {
                        None => SendOutcome::Dropped,
                        Some((header, frame)) => match &mut self.egress {
                            None => self.backend.send(header, frame),
                            Some(egress) => egress.send(&mut *self.backend, header, frame),
                        },
                    };
                    (sent, len)
                }
                Err(_) => (SendOutcome::Dropped, 0),
            };
            match sent {
                SendOutcome::Accepted => {
                    count(&self.counters.sent);
                    add(&self.counters.sent_bytes, len);
                }
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

    /// Delivers received frames until there are none or the driver has no buffers left.
    fn receive(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.rx_starved = false;
        let Some((queue, mem)) = io.queue(RX) else {
            self.rx_starved = true;
            return Ok(());
        };
        // Notifications of new buffers are needed only when there are too few (`place`).
        queue.disable_notification(mem)?;
        let before = queue.next_used();
        let mut more = true;
        for _ in 0..BATCH {
            // Answers to what was refused come first.
            let answer = self.egress.as_ref().and_then(Egress::answer);
            let is_answer = answer.is_some();
            let next = if is_answer {
                answer
            } else {
                self.backend.front()
            };
            let Some(frame) = next else {
                more = false;
                break;
            };
            let len = frame.data.len();
            if !is_answer && let Some(egress) = &self.egress {
                egress.inbound(frame.data);
            }
            let placed = if len < MIN_FRAME {
                Placed::Dropped
            } else {
                place(queue, mem, &frame, self.negotiated)?
            };
            match placed {
                Placed::Used => {
                    count(&self.counters.received);
                    add(&self.counters.received_bytes, len);
                }
                Placed::Dropped => count(&self.counters.receive_dropped),
                Placed::NoBuffers => {
                    self.rx_starved = true;
                    more = false;
                    break;
                }
            }
            match &mut self.egress {
                Some(egress) if is_answer => egress.pop_answer(),
                _ => self.backend.pop(),
            }
        }
        if queue.next_used() != before {
            io.notify(RX)?;
        }
        if more {
            // `poll_fd` does not cover frames that the backend has already received.
            io.reschedule(RX);
        }
        Ok(())
    }

    /// Takes the backend that was attached last, if it was not taken yet.
    fn take_backend(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        let Some(inlet) = &self.inlet else {
            return Ok(());
        };
        if !inlet.replace(&mut self.backend)? {
            return Ok(());
        }
        self.backend.set_rx_offloads(self.negotiated.rx)?;
        if !self.link_up && self.backend.link_up() {
            self.link_up = true;
            io.config_changed();
        }
        // Frames that waited for the old one.
        self.send(io)
    }

    /// Ends every event: delivers answers to what was refused, reports a link that went down, and sets
    /// what to wait for.
    fn finish_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        let answered = self.egress.as_ref().and_then(Egress::answer).is_some();
        if answered && !self.rx_starved {
            self.receive(io)?;
        }
        if self.link_up && !self.backend.link_up() {
            self.link_up = false;
            io.config_changed();
            // Frames that waited for the backend are dropped.
            self.send(io)?;
        }
        self.backend
            .set_interest(!self.rx_starved, self.tx_blocked)?;
        Ok(())
    }
}

/// The frame of one chain and its header, if they are valid.
fn check_header(buffers: Buffers<'_>, negotiated: Negotiated) -> Option<(Header, Segments<'_>)> {
    let mut header = buffers.readable;
    let frame = header.split_off(HEADER_LEN);
    let mut bytes = [0; HEADER_LEN];
    if header.copy_to(&mut bytes) != HEADER_LEN
        || !(MIN_FRAME..=MAX_FRAME).contains(&frame.len())
        || !buffers.writable.is_empty()
    {
        return None;
    }
    // The driver may change its copy at any time, so the backend gets the validated one.
    let header = Header::decode(&bytes).checked(frame.len(), negotiated.tx);
    header.ok().map(|header| (header, frame))
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn features(&self) -> u64 {
        config::features(self.mtu)
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
        self.take_backend(io)?;
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
        Some(match &self.inlet {
            Some(inlet) => inlet.poll_fd(),
            None => self.backend.poll_fd(),
        })
    }

    fn backend_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.take_backend(io)?;
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
        if let Some(egress) = &mut self.egress {
            egress.reset();
        }
    }
}
