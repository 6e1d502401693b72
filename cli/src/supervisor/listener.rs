//! The thread that reads the control socket.

use std::io::{IoSliceMut, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::Sender;
use std::thread;

use microagent_proto::control::{FromSupervisor, MAX_MESSAGE, PacketError, decode};
use microagent_proto::envelope::{Mismatch, Program};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

/// How much of the supervisor's standard error is kept for error messages, in bytes.
const STDERR_TAIL: usize = 4 << 10;

/// What the control socket delivers.
#[derive(Debug)]
pub(super) enum SupervisorEvent {
    /// A message.
    Message(FromSupervisor),
    /// A packet of another version.
    Mismatch(Mismatch),
    /// A packet of this version that is not a message.
    Malformed,
    /// The supervisor has exited and was reaped. Always the last event.
    Exited {
        status: Option<ExitStatus>,
        /// The end of its standard error, if that was captured.
        stderr: String,
    },
}

/// Reads messages until end of file, then reaps the child.
pub(super) fn listen(control: &OwnedFd, mut child: Child, sender: &Sender<SupervisorEvent>) {
    let stderr = child.stderr.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut tail = Vec::new();
            let mut chunk = [0; 1024];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                tail.extend_from_slice(&chunk[..length]);
                tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
            }
            String::from_utf8_lossy(&tail).into_owned()
        })
    });
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Some(length) = receive(control, &mut buffer) {
        let packet = &buffer[..length];
        let event = match decode(packet, Program::CommandLine, Program::Supervisor) {
            Ok(message) => SupervisorEvent::Message(message),
            Err(PacketError::Version(mismatch)) => SupervisorEvent::Mismatch(mismatch),
            Err(PacketError::Message(_)) => SupervisorEvent::Malformed,
        };
        // Without a receiver the child must still be reaped.
        let _ = sender.send(event);
    }
    // A supervisor that closed its socket must not keep running.
    let _ = child.kill();
    let status = child.wait().ok();
    let stderr = stderr
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let _ = sender.send(SupervisorEvent::Exited { status, stderr });
}

/// The length of the next message; `None` at end of file.
fn receive(control: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    loop {
        let mut no_ancillary = RecvAncillaryBuffer::default();
        match recvmsg(
            control,
            &mut [IoSliceMut::new(buffer)],
            &mut no_ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) if message.bytes > 0 => return Some(message.bytes),
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}
