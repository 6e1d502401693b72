//! Why a workspace could not be started.

use std::io;

use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;

use super::config::Started;
use crate::machine::MachineError;
use crate::machine::mediation::Unreachable;
use crate::machine::run_dir::RunDirError;
use crate::network::NetworkError;

/// A workspace could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Mediation(#[from] Unreachable),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot listen for clients")]
    Listen(#[source] io::Error),
    #[error("cannot keep the output of the guest")]
    Output(#[source] io::Error),
    #[error("the snapshot cannot be read")]
    Saved(#[source] io::Error),
    #[error(
        "the snapshot was taken with another microagent-supervisor, kernel or network, or on another host"
    )]
    OtherMachine,
    #[error("the snapshot cannot be used")]
    NotRestored(#[source] MachineError),
    #[error("cannot record what happens")]
    Record(#[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StartError {
    /// The report to the command that starts the workspace.
    pub fn report(&self) -> Started {
        let (kind, remediation) = match self {
            StartError::RunDir(error) => (error.kind(), error.remediation()),
            StartError::Machine(error) => (error.kind(), error.remediation()),
            StartError::Mediation(error) => (ErrorKind::Unreachable, Some(error.remediation())),
            StartError::Network(error) => (error.kind(), error.remediation()),
            StartError::OtherMachine => (ErrorKind::Conflict, None),
            StartError::NotRestored(error) => (ErrorKind::Guest, error.remediation()),
            StartError::Saved(_)
            | StartError::Listen(_)
            | StartError::Output(_)
            | StartError::Record(_)
            | StartError::Thread(_) => (ErrorKind::Host, None),
        };
        Started::Failed {
            kind: kind.as_str().to_owned(),
            message: error_chain(self),
            remediation,
        }
    }
}
