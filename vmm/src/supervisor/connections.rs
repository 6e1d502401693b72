//! The guest's streams to ports on which the caller listens.

use std::os::unix::net::UnixStream;

use microagent_proto::control::FromSupervisor;

use super::Control;

/// Passes the guest's streams to `port` to the caller. It must not wait for the caller, because it
/// is called on the device's thread: a stream that the caller has no room for is closed, which the
/// guest sees as a reset.
pub(super) fn service(control: Control, port: u32) -> impl FnMut(UnixStream) + Send + 'static {
    move |stream| {
        if let Err(error) = control.try_send(&FromSupervisor::Connection { port }, Some(&stream)) {
            tracing::warn!("the guest's connection to port {port} is closed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::supervisor::testing::Caller;

    #[test]
    fn a_stream_is_passed_on_and_a_caller_that_does_not_read_is_not_waited_for() {
        let (caller, control) = Caller::connected();
        let mut service = service(control, 5000);
        let (mut guest, ours) = UnixStream::pair().unwrap();
        service(ours);
        let (message, stream) = caller.received_with_stream().unwrap();
        assert_eq!(message, FromSupervisor::Connection { port: 5000 });
        guest.write_all(b"x").unwrap();
        let mut byte = [0];
        stream.unwrap().read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");

        // Far more than a socket holds.
        let closed = (0..10_000).any(|_| {
            let (guest, ours) = UnixStream::pair().unwrap();
            service(ours);
            guest.set_nonblocking(true).unwrap();
            matches!((&guest).read(&mut [0]), Ok(0))
        });
        assert!(closed);
    }
}
