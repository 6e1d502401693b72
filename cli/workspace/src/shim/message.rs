//! What the main thread of a shim waits for.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use microagent_proto::agent::Exited;

use super::protocol::Reply;
use crate::machine::session::SessionError;
use crate::machine::supervisor::SupervisorError;
use crate::state::State;

/// What the main thread waits for.
#[derive(Debug)]
pub enum Event {
    /// The workload was executed.
    WorkloadStarted,
    /// The workload has ended, or its session.
    WorkloadEnded(Result<Exited, SessionError>),
    /// The VM has ended.
    VmEnded(SupervisorError),
    /// A client wants the guest to be shut down.
    Stop {
        force: bool,
        reason: Option<String>,
        reply: Sender<Reply>,
    },
    /// A client wants the VM to be killed.
    Kill {
        /// The state after it.
        state: State,
        reason: Option<String>,
        reply: Sender<Reply>,
    },
    /// Somebody wants to use the suspended workspace.
    Wake,
    /// The rules of the network refused this for the first time.
    Refused(String),
    /// The quarantined workspace was captured, or not.
    Captured(io::Result<PathBuf>),
    /// A client wants to know the end.
    Wait { reply: Sender<Reply> },
    /// A client wants the vCPUs to stop.
    Pause { reply: Sender<Reply> },
    /// A client wants the vCPUs to run again.
    Resume { reply: Sender<Reply> },
    /// A client wants the VM to be saved in a directory.
    Snapshot {
        directory: PathBuf,
        reply: Sender<Reply>,
    },
    /// A client wants the guest to be severed from everything.
    Quarantine {
        reason: Option<String>,
        reply: Sender<Reply>,
    },
}

impl Event {
    /// Who waits for the reply to it.
    pub fn into_reply(self) -> Option<Sender<Reply>> {
        match self {
            Event::Stop { reply, .. }
            | Event::Kill { reply, .. }
            | Event::Wait { reply }
            | Event::Pause { reply }
            | Event::Resume { reply }
            | Event::Snapshot { reply, .. }
            | Event::Quarantine { reply, .. } => Some(reply),
            Event::WorkloadStarted
            | Event::WorkloadEnded(_)
            | Event::VmEnded(_)
            | Event::Wake
            | Event::Refused(_)
            | Event::Captured(_) => None,
        }
    }
}
