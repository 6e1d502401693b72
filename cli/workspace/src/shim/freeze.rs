//! A VM whose vCPUs do not run: paused, or quarantined, which ends only with its death.

use microagent_proto::error_chain;

use super::end::Next;
use super::protocol::Reply;
use super::record::Recorder;
use super::running::Shim;
use crate::machine::supervisor::ControlError;
use crate::result::WorkloadResult;
use crate::state::State;

impl Shim {
    /// The state, as clients see it.
    pub(super) fn state(&self) -> State {
        self.shared.status().state
    }

    /// Stops the vCPUs of a running workspace.
    pub(super) fn pause(&mut self, recorder: &Recorder) -> Reply {
        match self.state() {
            State::Paused => return Reply::Done,
            State::Running if self.stopping.next() == Next::Nothing => {}
            state => return refused(format!("it is {state}")),
        }
        // First, so that nobody connects to a guest that does not answer.
        self.enter(State::Paused, None, recorder);
        if let Err(error) = self.controller.pause() {
            self.enter(State::Running, Some(error_chain(&error)), recorder);
            return failed(&error);
        }
        Reply::Done
    }

    /// Lets the vCPUs of a paused workspace run again.
    pub(super) fn resume(&mut self, recorder: &Recorder) -> Reply {
        match self.state() {
            State::Running => Reply::Done,
            State::Paused => match self.thaw(recorder) {
                Ok(()) => Reply::Done,
                Err(refused) => refused,
            },
            state => refused(format!("it is {state}")),
        }
    }

    /// Stops the vCPUs, and severs the guest from everything.
    pub(super) fn quarantine(&mut self, reason: Option<String>, recorder: &Recorder) -> Reply {
        let state = self.state();
        match state {
            State::Quarantined => return Reply::Done,
            State::Running | State::Paused | State::Stopping => {}
            state => return refused(format!("it is {state}")),
        }
        if let Err(error) = self.controller.pause() {
            return failed(&error);
        }
        // What was asked for before does not happen any more, whatever fails from here on.
        self.stopping.give_up();
        let severed = self.controller.sever();
        let reached = match severed {
            Ok(()) => State::Quarantined,
            Err(_) => State::Paused,
        };
        for reply in self.stoppers.drain(..) {
            let _ = reply.send(refused(format!("it is {reached}")));
        }
        if let Err(error) = severed {
            self.enter(reached, Some(error_chain(&error)), recorder);
            return failed(&error);
        }
        self.enter(State::Quarantined, reason, recorder);
        self.end_waits_of_quarantined();
        Reply::Done
    }

    /// Answers who waits for the end: nothing happens in a quarantined workspace any more.
    pub(super) fn end_waits_of_quarantined(&mut self) {
        let state = self.state();
        if state != State::Quarantined {
            return;
        }
        let result = WorkloadResult::read(&self.directory.result()).unwrap_or_default();
        for reply in self.waiting.drain(..) {
            let result = result.clone();
            let _ = reply.send(Reply::Ended { state, result });
        }
    }

    /// Lets a paused guest run, which is to do something. A quarantined one is not let out.
    pub(super) fn thaw(&mut self, recorder: &Recorder) -> Result<(), Reply> {
        match self.state() {
            State::Paused => {}
            State::Quarantined => return Err(refused(format!("it is {}", State::Quarantined))),
            _ => return Ok(()),
        }
        self.controller.resume().map_err(|error| failed(&error))?;
        self.enter(State::Running, None, recorder);
        Ok(())
    }

    fn enter(&self, state: State, detail: Option<String>, recorder: &Recorder) {
        self.shared.status().state = state;
        if let Err(error) = recorder.record(state, detail.as_deref()) {
            tracing::error!(%error, "the event cannot be recorded");
        }
    }
}

fn refused(message: String) -> Reply {
    Reply::Refused { message }
}

fn failed(error: &ControlError) -> Reply {
    refused(error_chain(error))
}
