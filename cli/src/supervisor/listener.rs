//! The thread that reads the control socket.

use std::io::{IoSliceMut, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::Sender;
use std::thread;

use microagent_proto::control::{FromSupervisor, MAX_MESSAGE};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recvmsg};

/// How much of the supervisor's standard error is kept for messages, in bytes.
const STDERR_TAIL: usize = 4 << 10;

#[derive(Debug)]
pub(super) enum SupervisorEvent {
    Message(FromSupervisor),
    Malformed,
    Exited {
        status: Option<ExitStatus>,
        stderr: String,
    },
}

/// Reads messages until the socket ends, then collects the child.
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
        let event = match serde_json::from_slice(&buffer[..length]) {
            Ok(message) => SupervisorEvent::Message(message),
            Err(_) => SupervisorEvent::Malformed,
        };
        // Whoever listened may have stopped; the child must be collected all the same.
        let _ = sender.send(event);
    }
    // One that has closed its socket and does not end is of no use.
    let _ = child.kill();
    let status = child.wait().ok();
    let stderr = stderr
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let _ = sender.send(SupervisorEvent::Exited { status, stderr });
}

/// The length of the next message; `None` when the socket has ended.
fn receive(control: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    loop {
        let mut nothing = RecvAncillaryBuffer::default();
        match recvmsg(
            control,
            &mut [IoSliceMut::new(buffer)],
            &mut nothing,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) if message.bytes > 0 => return Some(message.bytes),
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}
