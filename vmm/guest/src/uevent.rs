//! Waiting for a device by the kernel's own events.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv};

/// The multicast group of events as the kernel sends them.
const KERNEL_EVENTS: u32 = 1;

/// A subscription to the kernel's device events. What happens after [`Uevents::open`] is not missed.
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

    /// Asks `attempt` at once and after each event, until it answers or `timeout` is over
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

    /// Reads all waiting events away: only that something happened matters.
    fn discard(&self) -> io::Result<()> {
        let mut event = [0u8; 4096];
        loop {
            match recv(&self.0, &mut event[..], RecvFlags::DONTWAIT) {
                // ENOBUFS: events were lost, which is no different from having read them.
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
