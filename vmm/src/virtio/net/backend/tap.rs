//! A TAP interface of the host kernel (`Documentation/networking/tuntap.rst`). Each read and write
//! is one frame after a virtio header, so the kernel handles the offloads that the guest requests,
//! or passes them on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use vm_memory::VolatileSlice;

use super::readiness::ReadinessFd;
use super::{Backend, Frame, Offloads, SendOutcome};
use crate::virtio::Segments;
use crate::virtio::net::header::{HEADER_LEN, Header, MAX_FRAME};

/// The flags with which an interface must be attached.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// An attached TAP interface.
#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    readiness: ReadinessFd,
    /// Of a fixed length; the first `len` bytes are a header and a frame.
    inbox: Vec<u8>,
    len: usize,
    attached: bool,
}

/// Why a TAP interface cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name does not have 1 to 15 bytes, or contains a NUL byte.
    #[error("invalid interface name {0:?}")]
    Name(String),
    /// The file descriptor is not attached to a TAP interface with virtio headers.
    #[error("not a TAP interface with virtio headers")]
    Kind,
    /// There is an interface with this name.
    #[error("network interface {0} exists")]
    Exists(String),
    /// The device that makes TAP interfaces cannot be opened.
    #[error("cannot open /dev/net/tun")]
    Open(#[source] io::Error),
    /// A system call failed.
    #[error("cannot {operation}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(operation: &'static str) -> impl Fn(E) -> TapError {
    move |source| TapError::Io {
        operation,
        source: source.into(),
    }
}

impl Tap {
    /// Attaches to the interface with this name. If there is none, it is created, and deleted with
    /// the backend. A new interface is down.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str) -> Result<Tap, TapError> {
        let (file, _) = attach(name, 0)?;
        Tap::new(file)
    }

    /// Creates an interface, which is down, and returns a descriptor that is attached to it, and
    /// its name. The interface is deleted when the last duplicate of the descriptor is closed, in
    /// whatever process.
    ///
    /// The name is unique in the network namespace, and no two callers can create the same: it can
    /// serve as a lock. `%d` in `name` stands for the lowest number that makes it unique.
    ///
    /// # Errors
    /// [`TapError::Exists`] if there is any interface with this name; others of [`TapError`].
    pub fn create(name: &str) -> Result<(OwnedFd, String), TapError> {
        attach(name, libc::IFF_TUN_EXCL)
    }

    /// The interface that `file`, an open `/dev/net/tun`, is attached to. The caller may have
    /// attached it with privileges that this process does not have.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn new(file: OwnedFd) -> Result<Tap, TapError> {
        let mut request = request();
        interface(&file, libc::TUNGETIFF, &mut request)
            .map_err(failed("query the TAP interface"))?;
        // SAFETY: needed because the kernel's structure has a union. `TUNGETIFF` sets the flags,
        // and any value is valid.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if libc::c_int::from(flags) & FLAGS != FLAGS {
            return Err(TapError::Kind);
        }
        rustix::io::ioctl_fionbio(&file, true)
            .map_err(failed("make the TAP interface non-blocking"))?;
        let length = HEADER_LEN as libc::c_int;
        // SAFETY: needed because there is no safe wrapper. The operation reads one integer, which
        // outlives the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })
            .map_err(failed("set the header length of the TAP interface"))?;
        let mut tap = Tap {
            file,
            readiness: ReadinessFd::new().map_err(failed("create an epoll instance"))?,
            inbox: vec![0; HEADER_LEN + MAX_FRAME],
            len: 0,
            attached: true,
        };
        tap.set_rx_offloads(Offloads::default())
            .map_err(failed("set the offloads of the TAP interface"))?;
        Ok(tap)
    }
}

/// Opens `/dev/net/tun` and attaches it to the interface with this name, with additional flags.
fn attach(name: &str, flags: libc::c_int) -> Result<(OwnedFd, String), TapError> {
    let mut request = request();
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() || bytes.contains(&0) {
        return Err(TapError::Name(name.to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (FLAGS | flags) as libc::c_short;
    let open = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open("/dev/net/tun", open, Mode::empty())
        .map_err(|e| TapError::Open(e.into()))?;
    interface(&file, libc::TUNSETIFF, &mut request).map_err(|source| {
        if flags & libc::IFF_TUN_EXCL != 0 && source.raw_os_error() == Some(libc::EBUSY) {
            return TapError::Exists(name.to_owned());
        }
        failed("attach to the TAP interface")(source)
    })?;
    let bytes = request.ifr_name.map(libc::c_char::cast_unsigned);
    let end = bytes.iter().position(|&byte| byte == 0);
    let name = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    Ok((file, String::from_utf8_lossy(name).into_owned()))
}

fn request() -> libc::ifreq {
    // SAFETY: needed because the kernel's structure has a union. Zero is valid for all members.
    unsafe { std::mem::zeroed() }
}

/// An ioctl with an `ifreq`.
fn interface(
    file: &OwnedFd,
    operation: libc::Ioctl,
    request: &mut libc::ifreq,
) -> io::Result<libc::c_int> {
    // SAFETY: needed because there is no safe wrapper. Both callers pass an operation that reads
    // and writes an `ifreq`, to which the call has exclusive access.
    check(unsafe { libc::ioctl(file.as_raw_fd(), operation, &raw mut *request) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

impl Backend for Tap {
    fn set_rx_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let Offloads {
            checksum,
            tso4,
            tso6,
        } = offloads.consistent();
        let bit = |flag: libc::c_uint, on: bool| if on { flag } else { 0 };
        let flags = bit(libc::TUN_F_CSUM, checksum)
            | bit(libc::TUN_F_TSO4, tso4)
            | bit(libc::TUN_F_TSO6, tso6);
        let flags = libc::c_ulong::from(flags);
        self.len = 0;
        if !self.attached {
            return Ok(());
        }
        // SAFETY: needed because there is no safe wrapper. The argument is a number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, flags) })?;
        Ok(())
    }

    fn link_up(&self) -> bool {
        self.attached
    }

    fn send(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome {
        let mut header = header.encode();
        let mut message = Segments::from(VolatileSlice::from(&mut header[..]));
        message.append(frame);
        match message.write_message(self.file.as_fd()) {
            Ok(_) => SendOutcome::Accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => SendOutcome::Full,
            // The kernel does not accept the frame, or the interface is down: the frame is dropped.
            // Whether the interface was deleted is detected by reading.
            Err(_) => SendOutcome::Dropped,
        }
    }

    fn front(&mut self) -> Option<Frame<'_>> {
        while self.attached && self.len <= HEADER_LEN {
            let read = || rustix::io::read(&self.file, &mut self.inbox[..]);
            match rustix::io::retry_on_intr(read) {
                Ok(n) => self.len = n,
                Err(error) if error == rustix::io::Errno::AGAIN => return None,
                Err(_) => {
                    self.attached = false;
                    self.len = 0;
                }
            }
        }
        let message = self.inbox.get(..self.len)?;
        let (header, data) = message.split_first_chunk()?;
        Some(Frame {
            header: Header::decode(header),
            data,
        })
    }

    fn pop(&mut self) {
        self.len = 0;
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.readiness.poll_fd()
    }

    fn set_interest(&mut self, receive: bool, send: bool) -> io::Result<()> {
        let up = self.attached;
        self.readiness
            .set(self.file.as_fd(), up && receive, up && send)
    }
}
