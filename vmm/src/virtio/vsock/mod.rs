//! The socket device (virtio 1.2 section 5.10), without a kernel module: streams of the guest are
//! connected to Unix stream sockets of this process.
//!
//! | file | contents |
//! |---|---|
//! | `packet` | the packet header |
//! | `credit` | how much may be sent to a socket of the guest |
//! | `credit_timer` | when to repeat credit requests |
//! | `backlog` | data from the guest that the host has not accepted yet |
//! | `connection` | the state of one stream |
//! | `muxer` | all streams: dispatch of packets, and the order of sending |
//! | `announcement` | telling the guest that its streams are gone |
//! | `services`, `handle` | connections from the guest, and to the guest |
//!
//! This file connects them to the queues: [`RX`] carries packets to the guest, [`TX`] from the
//! guest. [`EVENT`] is used once, in a VM that was restored with open streams.
//!
//! Limits: a guest has at most [`MAX_CONNECTIONS`] connections, each with at most [`BUF_ALLOC`]
//! bytes that the host has not read. A slow or hostile peer stalls only its own connection.

mod announcement;
mod backlog;
mod connection;
mod credit;
mod credit_timer;
mod handle;
mod muxer;
pub(super) mod packet;
mod services;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use self::announcement::Announcement;
use super::chain::Buffers;
use super::device::copy_config;
use super::serve::{serve_queue, serve_queue_while};
use super::{DeviceError, DeviceIo, VirtioDevice};
pub use connection::BUF_ALLOC;
pub use handle::VsockHandle;
use muxer::Muxer;
pub use muxer::{HOST_CID, MAX_CONNECTIONS};
use packet::{HEADER_LEN, Header};
pub use services::{Service, Services};

/// The queue of packets to the guest (virtio 1.2 section 5.10.2).
pub const RX: usize = 0;
/// The queue of packets from the guest.
pub const TX: usize = 1;
/// The queue of events to the guest.
pub const EVENT: usize = 2;

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 19;

const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// The maximum number of passes over the queues in one event, so that other events are handled too.
const ROUNDS: usize = 4;

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    announcement: Announcement,
    muxer: Muxer,
    handle: VsockHandle,
}

impl Vsock {
    /// A device for the guest with this context identifier (3 or more), which can connect to these
    /// services; and a handle for connecting to the guest.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(guest_cid: u32, services: Services) -> io::Result<(Vsock, VsockHandle)> {
        let handle = VsockHandle::new()?;
        let muxer = Muxer::new(u64::from(guest_cid), services, handle.wake_fd())?;
        Ok((
            Vsock {
                announcement: Announcement::None,
                muxer,
                handle: handle.clone(),
            },
            handle,
        ))
    }

    /// Tells the guest that streams which it has are gone, before others are opened.
    ///
    /// # Errors
    /// When the host has no random numbers.
    pub fn announce_reset(&mut self) -> io::Result<()> {
        self.announcement = Announcement::Due;
        self.muxer.begin_elsewhere()
    }

    /// Processes both queues until there is nothing to do or the limit of passes is reached.
    fn process_queues(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        for _ in 0..ROUNDS {
            let more_from_guest = self.process_tx(io)?;
            let more_to_guest = self.fill_rx(io)?;
            if !more_from_guest && !more_to_guest {
                return Ok(());
            }
        }
        self.handle.wake();
        Ok(())
    }

    /// Handles packets from the guest; `true` if there are more to handle now.
    fn process_tx(&mut self, io: &mut dyn DeviceIo) -> Result<bool, DeviceError> {
        // The queue of resets is full because the guest offers no buffers for them. Its packets
        // wait until it does.
        if !self.muxer.can_receive() {
            return Ok(false);
        }
        let Some((queue, mem)) = io.queue(TX) else {
            return Ok(false);
        };
        let served = serve_queue(queue, mem, |buffers| {
            if let Ok(Buffers { mut readable, .. }) = buffers {
                let data = readable.split_off(HEADER_LEN);
                let mut header = [0; HEADER_LEN];
                if readable.copy_to(&mut header) == HEADER_LEN {
                    self.muxer.receive(&Header::decode(&header), data);
                }
            }
            0
        })?;
        if served.any {
            io.notify(TX)?;
        }
        Ok(served.more)
    }

    /// Sends packets to the guest; `true` if there are more packets and buffers now.
    fn fill_rx(&mut self, io: &mut dyn DeviceIo) -> Result<bool, DeviceError> {
        if !self.muxer.wants_to_send() {
            return Ok(false);
        }
        let could_receive = self.muxer.can_receive();
        let Some((queue, mem)) = io.queue(RX) else {
            return Ok(false);
        };
        let served = serve_queue_while(queue, mem, |buffers| match buffers {
            _ if !self.muxer.wants_to_send() => None,
            Ok(Buffers { mut writable, .. }) if writable.len() >= HEADER_LEN => {
                let room = writable.split_off(HEADER_LEN);
                let header = self.muxer.next_packet(&room)?;
                writable.copy_from(&header.encode());
                Some(HEADER_LEN as u32 + header.len)
            }
            // Too short for any packet: returned empty.
            _ => Some(0),
        })?;
        if served.any {
            io.notify(RX)?;
        }
        Ok(served.more || !could_receive && self.muxer.can_receive())
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        TYPE
    }

    /// No feature bits means streams only (section 5.10.3).
    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.muxer.guest_cid().to_le_bytes();
        copy_config(&config, offset, data);
    }

    fn acknowledge(&mut self, _features: u64) {}

    fn activate(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.backend_event(io)
    }

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        match index {
            EVENT if !self.announcement.is_over() => self.backend_event(io),
            _ => self.process_queues(io),
        }
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.poll_fd())
    }

    fn backend_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        if !self.announcement.is_over()
            && let Some((queue, mem)) = io.queue(EVENT)
            && self.announcement.serve(queue, mem)?
        {
            io.notify(EVENT)?;
        }
        self.handle.clear_wake();
        if self.announcement.is_over() {
            for (port, stream) in self.handle.take_requests() {
                self.muxer.connect(port, stream);
            }
        }
        if self.handle.is_to_be_severed() {
            self.muxer.sever();
            self.handle.confirm_severed();
        }
        self.muxer.take_events()?;
        self.process_queues(io)
    }

    fn reset(&mut self) {
        // A driver that begins anew has no streams.
        self.announcement = Announcement::None;
        self.muxer.clear();
    }
}
