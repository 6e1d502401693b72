//! Saving a running workspace. Its VM does not run meanwhile, and goes on then.

use std::io;
use std::path::Path;
use std::time::Duration;

use microagent_proto::agent::AGENT_PORT;
use microagent_proto::error_chain;

use super::end::Next;
use super::protocol::Reply;
use super::record::Recorder;
use super::running::Shim;
use super::savable::Obstacle;
use crate::event::now;
use crate::machine::saving;
use crate::machine::session::SessionError;
use crate::machine::supervisor::ControlError;
use crate::saved::{Facts, Saved};
use crate::state::State;

/// How long the agent may take to stop the processes of its guest, or to let them run.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a workspace cannot be saved.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    #[error("the VM cannot be saved")]
    Vm(#[from] ControlError),
    #[error(transparent)]
    Agent(#[from] SessionError),
    #[error("the snapshot cannot be written")]
    Io(#[from] io::Error),
}

impl Shim {
    /// Saves the workspace in the directory `to`.
    pub(super) fn snapshot(&mut self, to: &Path, recorder: &Recorder) -> Reply {
        let state = self.state();
        if !matches!(state, State::Running | State::Paused) || self.stopping.next() != Next::Nothing
        {
            return Reply::is(state);
        }
        match self.save(to, state) {
            Ok(()) => {
                self.note("a snapshot was taken", recorder);
                Reply::Done
            }
            Err(error) => Reply::refused(error_chain(&error)),
        }
    }

    fn save(&self, to: &Path, state: State) -> Result<(), SaveError> {
        let key = self.savable.check()?.to_owned();
        let saved = Saved::at(to.to_owned());
        let file = saved.create_vm()?;
        let controller = self.shared.controller();
        let agent = || self.shared.connector().open(AGENT_PORT);
        // So that whoever goes on from it has the time and its own names before anything runs. The agent of
        // a guest that is paused does not answer: its processes run at once.
        if state == State::Running {
            saving::freeze(agent()?, AGENT_TIMEOUT)?;
        }
        let workload = self.workload.is_some();
        let written = controller.pause().map_err(SaveError::from).and_then(|()| {
            controller.save(file.into())?;
            Ok(saved.copy_disks(&self.directory)?)
        });
        if state == State::Running {
            controller.resume()?;
            saving::thaw(agent()?, AGENT_TIMEOUT)?;
        }
        written?;
        Ok(saved.complete(Facts {
            saved_at: now(),
            key,
            memory_mib: self.savable.vm.memory_mib,
            cpu_count: self.savable.vm.cpus,
            boot: self.savable.boot.clone(),
            workload,
            files: Vec::new(),
        })?)
    }
}
