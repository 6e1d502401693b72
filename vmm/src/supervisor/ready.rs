//! The host service that hears from the guest agent that it is up.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use microagent_proto::VERSION;
use microagent_proto::agent::Ready;
use microagent_proto::control::FromSupervisor;
use microagent_proto::frame::read_message;

use super::Control;
use super::steps::{Steps, monotonic_micros};

/// What is done with a guest's stream to [`microagent_proto::agent::READY_PORT`]: the first one is
/// read, on a thread of its own because a guest may send half a message and wait; its message goes
/// on to whoever started the VM. Further ones are closed: a guest is ready once.
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
            tracing::error!(%error, "the agent's report cannot be read");
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
            tracing::error!(version, "the guest agent speaks another protocol version");
            return;
        }
        Err(error) => {
            tracing::error!(%error, "the guest agent's report cannot be understood");
            return;
        }
    };
    // Whoever started us may be gone: then the VM ends anyway.
    let _ = control.send(&message);
}
