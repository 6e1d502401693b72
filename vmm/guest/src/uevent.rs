//! Waits for devices with the kernel's uevents.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv};

/// The multicast group of events from the kernel.
const KERNEL_EVENTS: u32 = 1;

/// A subscription to the kernel's device events. No event after [`Uevents::open`] is missed.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Subscribes.
    pub fn open() -> io::Result<Uevents> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
        Ok(Uevents(fd))
    }

    /// Calls `attempt` at once and after each event, until it returns a value or `timeout` expires
    /// (`None`).
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        mut attempt: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = attempt()? {
                return Ok(Some(found));
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(None);
            };
            let timeout = left.try_into().ok();
            let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => self.discard()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Discards all pending events; their content is not used.
    fn discard(&self) -> io::Result<()> {
        let mut event = [0u8; 4096];
        loop {
            match recv(&self.0, &mut event[..], RecvFlags::DONTWAIT) {
                // ENOBUFS: events were lost, which has the same effect as discarding them.
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
