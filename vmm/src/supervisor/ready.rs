//! The host service to which the guest agent reports that it is up.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use microagent_proto::agent::Ready;
use microagent_proto::control::FromSupervisor;
use microagent_proto::envelope::Program;
use microagent_proto::error_chain;
use microagent_proto::frame::{FrameError, read_opening};

use super::steps::{Steps, monotonic_micros};
use super::{Control, ControlError, Failure};
use crate::console::Console;

/// The maximum number of streams that are read. On a busy host an agent may give up a connection
/// that is accepted late, and connect again.
const MAX_STREAMS: usize = 4;

/// Handles the guest's streams to [`microagent_proto::agent::READY_PORT`]. Each is read on its own
/// thread, because a guest may send half a message and wait, and its message is forwarded to the
/// caller, who waits for the first.
pub(super) fn service(control: Control, steps: Steps) -> impl FnMut(UnixStream) + Send + 'static {
    let control = Arc::new(control);
    let mut streams = 0;
    move |stream| {
        if streams == MAX_STREAMS {
            return;
        }
        streams += 1;
        let (ours, steps) = (Arc::clone(&control), steps.clone());
        let spawned = thread::Builder::new()
            .name("ready".into())
            .stack_size(128 << 10)
            .spawn(move || forward(stream, &ours, &steps));
        if let Err(error) = spawned {
            // The caller would wait in vain for a report.
            let failure = Failure::from(ControlError::Thread(error));
            let _ = control.send(&failure.into_message(&Console::new(false)));
        }
    }
}

fn forward(mut stream: UnixStream, control: &Control, steps: &Steps) {
    let report = read_opening::<Ready>(
        &mut stream,
        Program::Supervisor,
        Program::Agent,
        "the agent's report",
    );
    let message = match report {
        Ok(Ready {
            started_micros,
            uptime_micros,
        }) => FromSupervisor::Ready {
            monotonic_micros: monotonic_micros(),
            uptime_micros,
            started_micros,
            steps: steps.all(),
        },
        Err(FrameError::Version(mismatch)) => super::mismatch_message(mismatch),
        // It connects again, or the guest powers off.
        Err(FrameError::Closed(_)) => return,
        // The caller would wait in vain for another report.
        Err(error) => FromSupervisor::Failed {
            message: format!(
                "invalid report from the guest agent: {}",
                error_chain(&error)
            ),
            remediation: None,
            console: String::new(),
        },
    };
    // Fails only when the caller has closed its end; then the VM is killed anyway.
    let _ = control.send(&message);
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use microagent_proto::envelope::envelope;
    use microagent_proto::frame::{Kind, write_frame};
    use microagent_proto::{OLDEST, VERSION};

    use super::*;
    use crate::supervisor::testing::Caller;

    /// What the caller receives when an agent sends `report` and closes its stream.
    fn message_after(report: &[u8]) -> FromSupervisor {
        let (caller, control) = Caller::connected();
        let (mut agent, stream) = UnixStream::pair().unwrap();
        agent.write_all(report).unwrap();
        drop(agent);
        forward(stream, &control, &Steps::default());
        caller.received().expect("a message")
    }

    #[test]
    fn the_report_of_an_agent_is_forwarded_also_if_that_is_newer() {
        let newer = br#"{"startedMicros":1,"uptimeMicros":2,"mood":"good"}"#;
        for version in [OLDEST, VERSION, VERSION + 1] {
            let mut report = envelope(version).to_vec();
            write_frame(&mut report, Kind::Message, newer).unwrap();
            assert!(matches!(
                message_after(&report),
                FromSupervisor::Ready {
                    started_micros: 1,
                    uptime_micros: 2,
                    ..
                }
            ));
        }
    }

    #[test]
    fn an_agent_of_a_version_that_is_too_old_is_named_at_once() {
        let without_envelope = br#"XXXXX{"version":3,"startedMicros":1,"uptimeMicros":2}"#;
        for (report, version) in [
            (&envelope(OLDEST - 1)[..], format!("version {}", OLDEST - 1)),
            (without_envelope, "version 3 or older".into()),
        ] {
            assert_eq!(
                message_after(report),
                FromSupervisor::Failed {
                    message: format!(
                        "protocol mismatch: microagent-supervisor uses version {VERSION}, \
                         microagent-guest {version}"
                    ),
                    remediation: Some(
                        "use the microagent-guest of the same installation as microagent".into()
                    ),
                    console: String::new(),
                }
            );
        }
    }

    #[test]
    fn an_invalid_report_is_an_error_at_once_and_none_is_not() {
        let mut report = envelope(VERSION).to_vec();
        write_frame(&mut report, Kind::Message, b"{").unwrap();
        let FromSupervisor::Failed { message, .. } = message_after(&report) else {
            panic!("not Failed");
        };
        let start = "invalid report from the guest agent: ";
        assert!(message.starts_with(start), "{message}");
        // An agent that gave its connection up.
        let (caller, control) = Caller::connected();
        let (agent, stream) = UnixStream::pair().unwrap();
        drop(agent);
        forward(stream, &control, &Steps::default());
        drop(control);
        assert!(caller.received().is_none());
    }
}
