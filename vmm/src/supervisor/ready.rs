//! The host service to which the guest agent reports that it is up.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use microagent_proto::VERSION;
use microagent_proto::agent::Ready;
use microagent_proto::control::FromSupervisor;
use microagent_proto::frame::read_message;

use super::Control;
use super::steps::{Steps, monotonic_micros};

/// Handles the guest's streams to [`microagent_proto::agent::READY_PORT`]. The first one is read,
/// and its message is forwarded to the caller. It is read on its own thread, because a guest may
/// send half a message and wait. Further streams are closed: a guest becomes ready once.
pub(super) fn service(control: Control, steps: Steps) -> impl Fn(UnixStream) + Send + 'static {
    let reported = AtomicBool::new(false);
    move |stream| {
        if reported.swap(true, Ordering::SeqCst) {
            return;
        }
        let Ok(control) = control.try_clone() else {
            return;
        };
        let steps = steps.clone();
        let spawned = thread::Builder::new()
            .name("ready".into())
            .stack_size(128 << 10)
            .spawn(move || forward(stream, &control, &steps));
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot read the agent's report");
        }
    }
}

fn forward(mut stream: UnixStream, control: &Control, steps: &Steps) {
    let message = match read_message::<Ready>(&mut stream, "the agent's report") {
        Ok(Ready {
            version: VERSION,
            started_micros,
            uptime_micros,
        }) => FromSupervisor::Ready {
            monotonic_micros: monotonic_micros(),
            uptime_micros,
            started_micros,
            steps: steps.all(),
        },
        Ok(Ready { version, .. }) => {
            tracing::error!(version, "protocol mismatch with the guest agent");
            return;
        }
        Err(error) => {
            tracing::error!(%error, "invalid report from the guest agent");
            return;
        }
    };
    // Fails only when the caller has closed its end; then the VM is killed anyway.
    let _ = control.send(&message);
}
