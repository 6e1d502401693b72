//! A way to a device for QEMU's network front end, which needs two things that others do not.
//!
//! It takes no descriptor of a connection, but a path to connect to: only then does QEMU believe
//! that descriptors can be passed. And it enables rings before it has acknowledged the feature that
//! lets it (`virtio_net_set_queue_pairs` of QEMU's hw/net/virtio-net.c does so while the driver
//! negotiates), for which `vhost-user-backend` ends a connection. So what it says is carried over a
//! connection of ours, on which that feature was acknowledged first.

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
/// The flags of a message: version 1, no answer wanted.
const VERSION: u32 = 1;

/// The length of a message's header, whose last word is the size of what follows, in bytes.
const HEADER: usize = 12;
/// The most that follows (`MAX_MSG_SIZE` of the crate).
const MAX_PAYLOAD: usize = 4096;

/// The most descriptors that come with one message: one for each region of memory
/// (`VHOST_MEMORY_BASELINE_NREGIONS`).
const MAX_DESCRIPTORS: usize = 8;

/// Carries what is said between a front end, which is yet to come, and a back end. Dropping it ends
/// that.
#[derive(Debug)]
pub struct Proxy {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Waits for a front end at the name `name` in `dir`, which must be private to this user; what
    /// it says goes to `back`. Returns the directory, for the front end's process to inherit.
    ///
    /// # Errors
    /// When the host has no descriptors or threads left, or `dir` cannot be written.
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
            // It fails when somebody else has taken it away.
            let _ = unlinkat(&dir, &name, AtFlags::empty());
            drop(listener);
            if let Ok(Some(front)) = front {
                // However it ends, both ends learn of it when these are closed.
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

/// Where a process finds the socket `name` whose descriptor of the directory is `dir`.
pub fn socket_path(name: &str, dir: i32) -> String {
    format!("/proc/self/fd/{dir}/{name}")
}

/// Says that there are protocol features, before the front end says anything.
fn acknowledge_protocol_features(back: &UnixStream) -> io::Result<()> {
    let mut message = Vec::new();
    for word in [SET_FEATURES, VERSION, size_of::<u64>() as u32] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(PROTOCOL_FEATURES.to_ne_bytes());
    io::Write::write_all(&mut &*back, &message)
}

/// The front end, or none when it is no longer waited for.
fn accept(listener: &UnixListener, stopped: &OwnedFd) -> io::Result<Option<UnixStream>> {
    match readable([listener.as_fd(), stopped.as_fd()])? {
        [_, true] => Ok(None),
        [_, false] => Ok(Some(listener.accept()?.0)),
    }
}

/// Carries messages both ways until one end is closed, or until told to stop.
fn forward(front: &UnixStream, back: &UnixStream, stopped: &OwnedFd) -> io::Result<()> {
    loop {
        let [asked, answered, stop] = readable([front.as_fd(), back.as_fd(), stopped.as_fd()])?;
        let goes_on = !stop
            && (!asked || forward_message(front, back)?)
            && (!answered || forward_message(back, front)?);
        if !goes_on {
            return Ok(());
        }
    }
}

/// Waits until one of these can be read, or was closed.
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

/// Passes on one message, with the descriptors that come with it; false at the end.
///
/// Message by message: what is received at once may be two, of which only the second came with
/// descriptors, and they would go with the first.
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
        // They go with the first byte, as they came.
        descriptors = Vec::new();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(true)
}

/// Fills `bytes`, and adds the descriptors that come with them; false at the end.
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

    /// A proxy, its front end, and its back end, after the message of the proxy's own and one
    /// more.
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
    fn messages_are_carried_both_ways_and_descriptors_stay_with_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let (_proxy, mut front, mut back) = proxy(dir.path());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);

        // Two in a row, of which the second comes with a descriptor.
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
    fn a_message_longer_than_any_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let (_proxy, mut front, _back) = proxy(dir.path());
        let long = message(&[0; MAX_PAYLOAD + 1]);
        front.write_all(&long[..HEADER]).unwrap();
        assert_eq!(front.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn it_ends_whether_the_front_end_came_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, _back) = UnixStream::pair().unwrap();
        drop(Proxy::start("net", dir.path(), theirs).unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        let (proxy, mut front, _back) = proxy(dir.path());
        drop(proxy);
        assert_eq!(front.read(&mut [0; 1]).unwrap(), 0);
    }
}
