//! Saving a running workspace. Its VM does not run meanwhile; it goes on then, or ends because the workspace
//! is suspended.

use std::path::Path;
use std::time::Duration;

use microagent_proto::agent::AGENT_PORT;
use microagent_proto::error_chain;

use super::end::Next;
use super::protocol::Reply;
use super::record::Recorder;
use super::running::Shim;
use super::savable::SaveError;
use crate::event::now;
use crate::machine::saving;
use crate::saved::{Facts, Saved};
use crate::state::State;

/// How long the agent may take to stop the processes of its guest, or to let them run.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);

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
        let key = self.savable.check()?;
        let saved = Saved::at(to.to_owned());
        let written = self.freeze(state).and_then(|()| {
            self.write_vm(&saved)?;
            Ok(saved.copy_disks(&self.directory)?)
        });
        // Also if it could not be frozen in time.
        self.unfreeze(state)?;
        written?;
        Ok(saved.complete(self.facts(key))?)
    }

    /// Saves the workspace, which nobody uses, in its own directory, and ends its VM. If it cannot be saved, it
    /// goes on.
    pub(super) fn suspend(&mut self, reason: String, recorder: &Recorder) -> Result<(), SaveError> {
        let key = self.savable.check()?.to_owned();
        self.woken = false;
        // First, so that nobody connects to a guest that does not answer.
        self.shared.status().state = State::Suspended;
        if !self.limits.is_unused() {
            self.shared.status().state = State::Running;
            return Ok(());
        }
        let saved = Saved::of(&self.directory);
        let written = self.freeze(State::Running).and_then(|()| {
            saved.discard_vm()?;
            self.write_vm(&saved)?;
            Ok(saved.complete(self.facts(&key))?)
        });
        let Err(error) = written else {
            self.stopping.suspend(reason);
            self.shared.killer().kill();
            return Ok(());
        };
        if let Err(error) = saved.discard_vm() {
            tracing::warn!(%error, "what was saved of the workspace cannot be removed");
        }
        let running = self.unfreeze(State::Running);
        self.shared.status().state = State::Running;
        self.note(
            &format!("cannot be suspended: {}", error_chain(&error)),
            recorder,
        );
        match running {
            // An agent that does not answer has frozen nothing, or will be asked again.
            Err(SaveError::Agent(_) | SaveError::Io(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stops the processes of the guest, so that whoever goes on from it has the time and its own names before
    /// anything runs. The agent of a guest that is paused does not answer: its processes run at once.
    fn freeze(&self, state: State) -> Result<(), SaveError> {
        if state == State::Running {
            let agent = self.shared.connector().open(AGENT_PORT)?;
            saving::freeze(agent, AGENT_TIMEOUT)?;
        }
        Ok(())
    }

    /// Saves the VM, which does not run afterwards.
    fn write_vm(&self, saved: &Saved) -> Result<(), SaveError> {
        let file = saved.create_vm()?;
        let controller = self.shared.controller();
        controller.pause()?;
        Ok(controller.save(file.into())?)
    }

    /// Lets the guest go on.
    fn unfreeze(&self, state: State) -> Result<(), SaveError> {
        if state == State::Running {
            self.shared.controller().resume()?;
            let agent = self.shared.connector().open(AGENT_PORT)?;
            saving::thaw(agent, AGENT_TIMEOUT)?;
        }
        Ok(())
    }

    fn facts(&self, key: &str) -> Facts {
        Facts {
            saved_at: now(),
            key: key.to_owned(),
            memory_mib: self.savable.vm.memory_mib,
            cpu_count: self.savable.vm.cpus,
            boot: self.savable.boot.clone(),
            workload: self.workload.is_some(),
            files: Vec::new(),
        }
    }
}
