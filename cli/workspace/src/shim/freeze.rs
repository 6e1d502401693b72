//! A VM whose vCPUs do not run: paused, or quarantined, which ends only with its death.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use microagent_proto::error_chain;

use super::capture::processes;
use super::end::Next;
use super::protocol::Reply;
use super::record::Recorder;
use super::running::Shim;
use crate::machine::supervisor::ControlError;
use crate::quarantine::Facts;
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
            state => return Reply::is(state),
        }
        // First, so that nobody connects to a guest that does not answer.
        self.enter(State::Paused, None, recorder);
        if let Err(error) = self.shared.controller().pause() {
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
            state => Reply::is(state),
        }
    }

    /// Stops the vCPUs, and severs the guest from everything.
    pub(super) fn quarantine(
        &mut self,
        reason: Option<String>,
        recorder: &Recorder,
    ) -> Result<(), Reply> {
        match self.state() {
            State::Quarantined => return Ok(()),
            State::Running | State::Paused | State::Stopping => {}
            state => return Err(Reply::is(state)),
        }
        if let Err(error) = self.shared.controller().pause() {
            return Err(failed(&error));
        }
        // What was asked for before does not happen any more, whatever fails from here on.
        self.stopping.give_up();
        if let Some(network) = self.shared.network() {
            network.end();
        }
        let severed = self.shared.controller().sever();
        let reached = match severed {
            Ok(()) => State::Quarantined,
            Err(_) => State::Paused,
        };
        for reply in self.stoppers.drain(..) {
            let _ = reply.send(Reply::is(reached));
        }
        if let Err(error) = severed {
            self.enter(reached, Some(error_chain(&error)), recorder);
            return Err(failed(&error));
        }
        self.enter(State::Quarantined, reason, recorder);
        self.end_waits_of_quarantined();
        Ok(())
    }

    /// Captures a quarantined workspace, and answers `reply` then.
    pub(super) fn begin_capture(&mut self, recorder: &Recorder, reply: Sender<Reply>) {
        if self.capture.done {
            let _ = reply.send(Reply::Done);
            return;
        }
        self.capture.waiting.push(reply);
        let shared = &self.shared;
        let facts = || Facts {
            uptime_millis: shared.uptime_millis(),
            stats: shared.controller().stats().ok(),
            processes: processes(),
            ..recorder.facts()
        };
        let begun = self.capture.begin(&self.directory, facts, shared.events());
        if let Err(error) = begun {
            self.captured(Err(error), recorder);
        }
    }

    /// The capture has ended.
    pub(super) fn captured(&mut self, captured: io::Result<PathBuf>, recorder: &Recorder) {
        self.capture.end(&captured);
        let (detail, reply) = match captured {
            Ok(path) => (format!("captured in {}", path.display()), Reply::Done),
            Err(error) => {
                let why = format!("it is quarantined, and cannot be captured: {error}");
                (format!("cannot be captured: {error}"), Reply::refused(why))
            }
        };
        if let Err(error) = recorder.note(State::Quarantined, &detail) {
            tracing::error!(%error, "the event cannot be recorded");
        }
        for waiting in self.capture.waiting.drain(..) {
            let _ = waiting.send(reply.clone());
        }
    }

    /// The VM has ended, so that what is not captured will not be.
    pub(super) fn end_capture(&mut self) {
        self.capture.stop();
        for waiting in self.capture.waiting.drain(..) {
            let _ = waiting.send(Reply::refused("it was killed before it was captured"));
        }
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
            State::Quarantined => return Err(Reply::is(State::Quarantined)),
            _ => return Ok(()),
        }
        self.shared
            .controller()
            .resume()
            .map_err(|error| failed(&error))?;
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

fn failed(error: &ControlError) -> Reply {
    Reply::refused(error_chain(error))
}
