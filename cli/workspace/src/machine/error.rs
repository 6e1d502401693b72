//! Why a VM does not do what it was asked for.

use std::io;

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::{Failure, FailureKind};

use super::session::SessionError;
use super::supervisor::{Supervisor, SupervisorError};

/// A VM failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The guest's memory was exhausted.
    #[error("the guest ran out of memory ({memory_mib} MiB)")]
    OutOfMemory {
        /// Its memory in MiB.
        memory_mib: u64,
    },
    /// The VM ended, or did not start.
    #[error(transparent)]
    Vm(SupervisorError),
    /// The agent refused a request.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// A session with the agent failed, and the VM did not end.
    #[error(transparent)]
    Session(SessionError),
    /// A guest that was restored from a snapshot does not answer in time.
    #[error("the guest does not respond after being restored")]
    Hung,
    /// A guest that was restored from a snapshot could not be configured. One that boots may be.
    #[error(transparent)]
    NotResumed(Box<MachineError>),
    /// The host has no entropy for the guest.
    #[error("cannot get entropy for the guest")]
    Entropy(#[source] io::Error),
}

impl MachineError {
    /// The error of a VM with this memory that has ended or did not start.
    pub fn of_vm(error: SupervisorError, memory_mib: u64) -> MachineError {
        match error.is_out_of_memory() {
            true => MachineError::OutOfMemory { memory_mib },
            false => MachineError::Vm(error),
        }
    }

    /// The error of a session with the VM of `supervisor`: the reason of the VM's end, if it
    /// reports one.
    pub fn of_session(
        error: SessionError,
        supervisor: &Supervisor,
        memory_mib: u64,
    ) -> MachineError {
        match error {
            SessionError::Refused(failure) => MachineError::Refused(failure),
            error @ SessionError::Version(_) => MachineError::Session(error),
            error => match supervisor.exit_reason() {
                Some(end) => MachineError::of_vm(end, memory_mib),
                None => MachineError::Session(error),
            },
        }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            MachineError::OutOfMemory { .. } => ErrorKind::Guest,
            MachineError::Vm(error) => error.kind(),
            MachineError::Refused(failure) if failure.kind == FailureKind::NotFound => {
                ErrorKind::NotFound
            }
            MachineError::Refused(_) => ErrorKind::Guest,
            // As for a boot that took too long: it is tried again.
            MachineError::Hung | MachineError::NotResumed(_) => ErrorKind::Timeout,
            MachineError::Session(SessionError::Version(_)) => ErrorKind::Internal,
            MachineError::Session(SessionError::Output(_)) | MachineError::Entropy(_) => {
                ErrorKind::Host
            }
            MachineError::Session(_) => ErrorKind::Guest,
        }
    }

    /// What the user can do about it, if anything.
    pub fn remediation(&self) -> Option<String> {
        match self {
            MachineError::OutOfMemory { memory_mib } => {
                Some(format!("use more, as in --memory {}", 2 * memory_mib))
            }
            MachineError::Vm(error) => error.remediation(),
            MachineError::Session(SessionError::Version(mismatch)) => Some(mismatch.remediation()),
            MachineError::Refused(_)
            | MachineError::Session(_)
            | MachineError::Hung
            | MachineError::NotResumed(_)
            | MachineError::Entropy(_) => None,
        }
    }
}
