//! The process that runs one VM: `microagent-supervisor`.
//!
//! It reads the VM's configuration from the control socket on standard input
//! ([`microagent_proto::control`]), creates the devices, starts the engine, and then waits for a
//! message, the end of the VM, or the end of the socket. When the socket is closed, the process
//! exits at once, whatever its threads do ([`hangup`]), so a supervisor never outlives the process
//! that started it.
//!
//! ```text
//!  Start ─▶ devices ─▶ engine ─▶ ┌─ wait ──┐ ── VM ended ─────▶ Stopped / Failed, exit
//!                                 │ Connect  │ ── socket closed ▶ kill, exit
//!                                 │ Diagnose │ ── Kill ─────────▶ kill, Stopped, exit
//!                                 │ Release  │
//!                                 │ Pause, … │
//!                                 └──────────┘
//! ```

mod connections;
mod control;
mod devices;
mod diagnosis;
mod hangup;
mod instance;
mod limits;
mod log;
mod net;
mod ready;
mod refusals;
mod saved;
mod stats;
mod steps;
#[cfg(test)]
mod testing;
mod warnings;

use std::time::Instant;

use microagent_proto::control::{
    Answer, CONSOLE_TAIL, Engine, FromSupervisor, REFUSED_PERIOD, StepName, ToSupervisor,
};
use microagent_proto::envelope::Mismatch;
use microagent_proto::error_chain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use self::control::{Control, ControlError};
use self::devices::DevicesError;
use self::instance::{Given, Instance};
use self::steps::Steps;
pub use self::steps::monotonic_micros;
use self::warnings::Warnings;
use crate::console::Console;
use crate::engine::{EngineError, kvm};

/// [`run`] for a process that does nothing else: it is killed when the caller closes its end of
/// `control`, its log is sent to the caller as warnings, and the limits of the process are changed.
///
/// # Errors
/// Those of [`run`].
pub fn run_process(control: &Control, expected: Option<Engine>) -> Result<bool, ControlError> {
    limits::relax();
    if let Err(error) = tie_process(control) {
        control.send(&Failure::from(error).into_message(&Console::new(false)))?;
        return Ok(false);
    }
    run(control, expected)
}

/// Fails when the process is out of descriptors or threads.
fn tie_process(control: &Control) -> Result<(), ControlError> {
    hangup::exit_with(control.try_clone()?).map_err(ControlError::Thread)?;
    log::forward_to(Warnings::new(control.try_clone()?));
    Ok(())
}

/// Runs the VM that the first message on `control` describes until it ends, and reports the end
/// with the last message. Returns false when that message is [`FromSupervisor::Failed`]. With
/// `expected`, prepares that engine before it waits for the first message.
///
/// # Errors
/// Only when the control socket itself fails, so that the failure cannot be reported on it.
pub fn run(control: &Control, expected: Option<Engine>) -> Result<bool, ControlError> {
    let steps = Steps::default();
    steps.note(StepName::Supervisor);
    let warnings = Warnings::new(control.try_clone()?);
    let prepared = (expected == Some(Engine::Kvm)).then(|| prepare(&steps));
    let (config, net) = match control.receive() {
        Ok(Some((ToSupervisor::Start(config), net))) if net.is_some() == config.net.is_some() => {
            (config, net)
        }
        Ok(Some(_)) => return Err(ControlError::NotStart),
        Ok(None) => return Ok(true),
        Err(ControlError::Version(mismatch)) => {
            // A caller of another version reads at least the envelope.
            control.send(&mismatch_message(mismatch))?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    steps.note(StepName::StartReceived);
    let console = Console::new(config.console_to_stderr);
    let mut instance = None;
    let given = Given {
        config: &config,
        net,
        console: &console,
        prepared,
    };
    let outcome = Instance::start(control, given, &steps, &warnings)
        .and_then(|started| watch(control, &console, instance.insert(started), &steps));
    let last = match outcome {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(true),
        Err(failure) => failure.into_message(&console),
    };
    let ended_well = matches!(last, FromSupervisor::Stopped { .. });
    // Before the report: the caller may unmount the disks' file systems as soon as it has it.
    if let Some(instance) = &mut instance {
        instance.release();
        instance.report_last_refusals(control);
    }
    // Fails only when the caller has closed its end; then nobody needs the report.
    let _ = control.send(&last);
    // Dropped after the report: tearing down a VM takes milliseconds, and the caller need not wait.
    drop(instance);
    Ok(ended_well)
}

/// Starts to create an empty VM.
fn prepare(steps: &Steps) -> Result<kvm::Prepared, EngineError> {
    let steps = steps.clone();
    kvm::Prepared::begin(move || steps.note(StepName::Prepared))
}

/// Why a VM could not be run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Devices(#[from] DevicesError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot wait for the VM")]
    Wait(#[source] std::io::Error),
}

impl Failure {
    fn into_message(self, console: &Console) -> FromSupervisor {
        let remediation = match &self {
            Failure::Engine(error) => error.remediation(),
            Failure::Devices(error) => error.remediation(),
            Failure::Control(_) | Failure::Wait(_) => None,
        };
        FromSupervisor::Failed {
            message: error_chain(&self),
            remediation,
            console: console.tail(CONSOLE_TAIL),
        }
    }
}

/// The last message when another program uses another version of the protocol.
fn mismatch_message(mismatch: Mismatch) -> FromSupervisor {
    FromSupervisor::Failed {
        message: mismatch.to_string(),
        remediation: Some(mismatch.remediation()),
        console: String::new(),
    }
}

/// Handles messages until the VM ends. Returns the last message to send, or `None` when the caller
/// has closed the socket.
fn watch(
    control: &Control,
    console: &Console,
    instance: &mut Instance,
    steps: &Steps,
) -> Result<Option<FromSupervisor>, Failure> {
    // The filter counts on the device's thread, and wakes nobody.
    let period = instance.refusals.as_ref().map(|_| Timespec {
        tv_sec: REFUSED_PERIOD.as_secs().cast_signed(),
        tv_nsec: 0,
    });
    loop {
        let (message, ended) = {
            let socket = control.as_fd();
            let end = instance.vm.ended_fd();
            let mut fds = [
                PollFd::new(&socket, PollFlags::IN),
                PollFd::new(&end, PollFlags::IN),
            ];
            match poll(&mut fds, period.as_ref()) {
                Ok(_) => (!fds[0].revents().is_empty(), !fds[1].revents().is_empty()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Failure::Wait(error.into())),
            }
        };
        if let Some(refusals) = &mut instance.refusals {
            refusals.report(control, Instant::now());
        }
        if ended && let Some(outcome) = instance.vm.end() {
            return Ok(Some(FromSupervisor::Stopped {
                reason: outcome?,
                steps: steps.all(),
                console: console.tail(CONSOLE_TAIL),
            }));
        }
        if message {
            match control.receive()? {
                Some((ToSupervisor::Connect { port }, Some(socket))) => {
                    instance.vsock.connect(port, socket.into());
                }
                Some((ToSupervisor::Save, Some(file))) => {
                    control.send(&done(saved::write(&mut *instance.vm, &file.into())))?;
                }
                Some((ToSupervisor::AttachNet, Some(backend))) => {
                    let attached = instance.attach_net(backend).map_err(DevicesError::from);
                    control.send(&done(attached))?;
                }
                Some((ToSupervisor::Pin(pin), None)) => {
                    let pinned = instance.pin(&pin).map_err(DevicesError::from);
                    control.send(&done(pinned))?;
                }
                Some((ToSupervisor::Kill, None)) => instance.vm.kill(),
                Some((ToSupervisor::Release, None)) => {
                    instance.release();
                    instance.report_last_refusals(control);
                    control.send(&FromSupervisor::Released)?;
                }
                Some((ToSupervisor::Pause, None)) => {
                    control.send(&done(instance.vm.pause()))?;
                }
                Some((ToSupervisor::Resume, None)) => {
                    control.send(&done(instance.vm.resume()))?;
                }
                Some((ToSupervisor::Sever, None)) => {
                    instance.vsock.sever();
                    console.sever();
                    control.send(&FromSupervisor::Answer(Answer::Done))?;
                }
                Some((ToSupervisor::Stats, None)) => {
                    let stats = Answer::Stats(stats::of(instance));
                    control.send(&FromSupervisor::Answer(stats))?;
                }
                Some((ToSupervisor::Diagnose, None)) => {
                    control.send(&diagnosis::message(console, &mut *instance.vm))?;
                }
                Some(_) => return Err(ControlError::Unexpected.into()),
                None => {
                    instance.vm.kill();
                    return Ok(None);
                }
            }
        }
    }
}

/// The answer to a request that has this result.
fn done<E: std::error::Error>(result: Result<(), E>) -> FromSupervisor {
    FromSupervisor::Answer(match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused {
            message: error_chain(&error),
        },
    })
}

#[cfg(test)]
mod tests {
    use microagent_proto::VERSION;
    use microagent_proto::envelope::envelope;

    use super::testing::Caller;
    use super::*;

    #[test]
    fn a_command_line_of_another_version_gets_an_answer_with_ours() {
        let without_envelope = br#"{"start":{"version":3}}"#;
        for (packet, version) in [
            (
                &envelope(VERSION + 1)[..],
                format!("version {}", VERSION + 1),
            ),
            (&envelope(VERSION - 1), format!("version {}", VERSION - 1)),
            (without_envelope, "version 3 or older".into()),
        ] {
            let (caller, control) = Caller::connected();
            caller.send(packet);
            assert!(!run(&control, None).unwrap());
            let answer = caller.received();
            let Some(FromSupervisor::Failed { message, .. }) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(
                message,
                format!(
                    "protocol mismatch: microagent-supervisor uses version {VERSION}, \
                     microagent {version}"
                )
            );
        }
    }
}
