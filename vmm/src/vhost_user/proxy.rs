//! A proxy for QEMU's network front end, which differs from the others in two ways:
//!
//! - It does not accept the file descriptor of a connection, only a path to connect to; otherwise
//!   QEMU assumes that file descriptors cannot be passed.
//! - It enables rings before it has acknowledged `VHOST_USER_F_PROTOCOL_FEATURES`, while the driver
//!   negotiates (`virtio_net_set_queue_pairs` in QEMU's hw/net/virtio-net.c). `vhost-user-backend`
//!   closes the connection then.
//!
//! So the proxy listens on a path, acknowledges that feature on its own connection to the back end,
//! and then forwards all messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::backend::PROTOCOL_FEATURES;

/// `VHOST_USER_SET_FEATURES`.
const SET_FEATURES: u32 = 2;
/// The flags of a message: version 1, no reply requested.
const VERSION: u32 = 1;

/// The length of a message header, in bytes. Its last word is the size of the payload.
const HEADER: usize = 12;
/// The maximum size of the payload, in bytes (`MAX_MSG_SIZE` of the `vhost` crate).
const MAX_PAYLOAD: usize = 4096;

/// The maximum number of file descriptors in a message: one for each memory region
/// (`VHOST_MEMORY_BASELINE_NREGIONS`).
const MAX_DESCRIPTORS: usize = 8;

/// Forwards messages between a front end, which connects later, and a back end. Dropping it closes
/// both connections.
#[derive(Debug)]
pub struct Proxy {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on the socket `name` in `dir`, which must be private to this user, and forwards one
    /// connection to `back`. Returns a file descriptor of the directory, for the front end's
    /// process to inherit.
    ///
    /// # Errors
    /// When the host is out of file descriptors or threads, or `dir` is not writable.
    pub fn start(name: &str, dir: &Path, back: UnixStream) -> io::Result<(Proxy, OwnedFd)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, flags, Mode::empty())?;
        let theirs = dir.try_clone()?;
        let listener = UnixListener::bind(socket_path(name, dir.as_raw_fd()))?;
        acknowledge_protocol_features(&back)?;
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let name = name.to_owned();
        let run = move || {
            let front = accept(&listener, &stopped);
            // Fails if it was already removed.
            let _ = unlinkat(&dir, &name, AtFlags::empty());
            drop(listener);
            if let Ok(Some(front)) = front {
                // Both ends are closed afterwards, also after an error.
                let _ = forward(&front, &back, &stopped);
            }
        };
        let thread = thread::Builder::new()
            .name("vhost-user-proxy".into())
            .stack_size(128 << 10)
            .spawn(run)?;
        let proxy = Proxy {
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok((proxy, theirs))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The path of the socket `name`, in a process in which `dir` is a file descriptor of the
/// directory.
pub fn socket_path(name: &str, dir: i32) -> String {
    format!("/proc/self/fd/{dir}/{name}")
}

/// Acknowledges `VHOST_USER_F_PROTOCOL_FEATURES`, before the first message of the front end.
fn acknowledge_protocol_features(back: &UnixStream) -> io::Result<()> {
    let mut message = Vec::new();
    for word in [SET_FEATURES, VERSION, size_of::<u64>() as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(PROTOCOL_FEATURES.to_ne_bytes());
    io::Write::write_all(&mut &*back, &message)
}

/// Waits for the front end; `None` if the proxy is stopped.
fn accept(listener: &UnixListener, stopped: &OwnedFd) -> io::Result<Option<UnixStream>> {
    match readable([listener.as_fd(), stopped.as_fd()])? {
        [_, true] => Ok(None),
        [_, false] => Ok(Some(listener.accept()?.0)),
    }
}

/// Forwards messages in both directions until one end is closed or the proxy is stopped.
fn forward(front: &UnixStream, back: &UnixStream, stopped: &OwnedFd) -> io::Result<()> {
    loop {
        let [request, reply, stop] = readable([front.as_fd(), back.as_fd(), stopped.as_fd()])?;
        let open = !stop
            && (!request || forward_message(front, back)?)
            && (!reply || forward_message(back, front)?);
        if !open {
            return Ok(());
        }
    }
}

/// Waits until one of these is readable or closed.
fn readable<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
        }
    }
}

/// Forwards one message with its file descriptors; `false` at the end of the stream.
///
/// Forwarding message by message keeps the file descriptors with their message: a single receive
/// could return two messages of which only the second has any.
fn forward_message(from: &UnixStream, to: &UnixStream) -> io::Result<bool> {
    let mut message = vec![0; HEADER];
    let mut descriptors = Vec::new();
    if !receive(from, &mut message, &mut descriptors)? {
        return Ok(false);
    }
    let size = message.last_chunk().copied().map(u32::from_ne_bytes);
    let size = size.map_or(0, |size| size as usize);
    if size > MAX_PAYLOAD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    message.resize(HEADER + size, 0);
    if !receive(from, &mut message[HEADER..], &mut descriptors)? {
        return Ok(false);
    }
    let mut rest = &message[..];
    let mut descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let sent = sendmsg(to, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
        // They are sent with the first byte, as they were received.
        descriptors = Vec::new();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(true)
}

/// Fills `bytes` and appends the received file descriptors to `fds`; `false` at the end of the
/// stream.
fn receive(from: &UnixStream, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes[filled..])];
        let length = recvmsg(from, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if length == 0 {
            return Ok(false);
        }
        filled += length;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    /// A message with this payload.
    fn message(payload: &[u8]) -> Vec<u8> {
        let words = [1, 1, payload.len() as u32].map(u32::to_ne_bytes);
        [words.as_flattened(), payload].concat()
    }

    /// A proxy, its front end, and its back end, after the proxy's own message and one from the
    /// front end.
    fn proxy(dir: &Path) -> (Proxy, UnixStream, UnixStream) {
        let (theirs, mut back) = UnixStream::pair().unwrap();
        let (proxy, dir) = Proxy::start("net", dir, theirs).unwrap();
        let mut front = UnixStream::connect(socket_path("net", dir.as_raw_fd())).unwrap();
        let mut first = [0; 20];
        back.read_exact(&mut first).unwrap();
        let words = [2_u32, 1, 8, 1 << 30, 0].map(u32::to_ne_bytes);
        assert_eq!(first, *words.as_flattened());
        front.write_all(&message(b"")).unwrap();
        back.read_exact(&mut [0; HEADER]).unwrap();
        (proxy, front, back)
    }

    #[test]
    fn messages_are_forwarded_both_ways_with_their_file_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let (_proxy, mut front, mut back) = proxy(dir.path());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);

        // Two in a row, of which the second has a file descriptor.
        let (reads, writes) = rustix::pipe::pipe().unwrap();
        front.write_all(&message(b"first")).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [reads.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&rights));
        let second = message(b"second");
        sendmsg(
            &front,
            &[IoSlice::new(&second)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();

        let (mut got, mut fds) = (vec![0; HEADER + 5], Vec::new());
        assert!(receive(&back, &mut got, &mut fds).unwrap());
        assert_eq!((got, fds.len()), (message(b"first"), 0));
        let mut got = vec![0; HEADER + 6];
        assert!(receive(&back, &mut got, &mut fds).unwrap());
        assert_eq!((got, fds.len()), (second, 1));
        File::from(writes).write_all(b"through the pipe").unwrap();
        let mut got = [0; 16];
        File::from(fds.remove(0)).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"through the pipe");

        let answer = message(&[7; MAX_PAYLOAD]);
        back.write_all(&answer).unwrap();
        let mut got = vec![0; answer.len()];
        front.read_exact(&mut got).unwrap();
        assert_eq!(got, answer);
        drop(back);
        assert_eq!(front.read(&mut got).unwrap(), 0);
    }

    #[test]
    fn a_message_above_the_maximum_size_closes_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (_proxy, mut front, _back) = proxy(dir.path());
        let long = message(&[0; MAX_PAYLOAD + 1]);
        front.write_all(&long[..HEADER]).unwrap();
        assert_eq!(front.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn it_can_be_dropped_before_and_after_the_front_end_connects() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, _back) = UnixStream::pair().unwrap();
        drop(Proxy::start("net", dir.path(), theirs).unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        let (proxy, mut front, _back) = proxy(dir.path());
        drop(proxy);
        assert_eq!(front.read(&mut [0; 1]).unwrap(), 0);
    }
}
