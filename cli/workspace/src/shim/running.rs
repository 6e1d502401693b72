//! A running VM and its workload, until both have ended.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use microagent_proto::agent::{AGENT_PORT, Exited};
use microagent_proto::error_chain;

use super::capture::Capture;
use super::config::Started;
use super::end::{Next, Stopping};
use super::error::StartError;
use super::limits::Limits;
use super::listener::Shared;
use super::message::Event;
use super::outcome::End;
use super::protocol::Reply;
use super::reach::Reach;
use super::record::Recorder;
use super::savable::{Savable, SaveError};
use super::workload::Workload;
use crate::dir::WorkspaceDir;
use crate::event::now;
use crate::machine::session::{self, SessionError};
use crate::machine::supervisor::Supervisor;
use crate::machine::{MachineError, data_loss};
use crate::network::publish::Bound;
use crate::network::refusals::Refusals;
use crate::result::WorkloadResult;
use crate::state::State;

/// A running VM and its workload.
pub struct Shim {
    pub(super) memory_mib: u64,
    pub(super) stop_signal: i32,
    pub(super) directory: WorkspaceDir,
    pub(super) savable: Savable,
    pub(super) refusals: Refusals,
    pub(super) shared: Arc<Shared>,
    pub(super) capture: Capture,
    pub(super) vm: Option<JoinHandle<Supervisor>>,
    pub(super) reach: Reach,
    pub(super) workload: Option<Workload>,
    pub(super) started_at: Option<String>,
    pub(super) stopping: Stopping,
    pub(super) limits: Limits,
    /// Why the session of the workload broke.
    pub(super) broken: Option<String>,
    /// Somebody wanted to use the workspace while it was being suspended.
    pub(super) woken: bool,
    /// Who asked for the end.
    pub(super) stoppers: Vec<Sender<Reply>>,
    /// Who only waits for it.
    pub(super) waiting: Vec<Sender<Reply>>,
}

impl Shim {
    /// Handles events until the VM has ended.
    pub fn watch(
        &mut self,
        events: &Receiver<Event>,
        recorder: &Recorder,
        say: &mut impl FnMut(Started),
    ) -> End {
        let mut start = None;
        // Decided while the VM booted.
        if let Some((state, reason)) = self.shared.ending().take() {
            self.stopping.kill_as(state, reason);
            self.kill();
        } else if self.workload.is_none() {
            say(Started::Ready);
        }
        loop {
            let limit = match self.stopping.next() {
                Next::Nothing => self.limits.next(),
                _ => None,
            };
            let event = match self.stopping.deadline().or(limit) {
                None => events.recv().ok(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    events.recv_timeout(left).ok()
                }
            };
            match event {
                None if limit.is_some() => self.check_limits(recorder),
                None => self.deadline_passed(recorder),
                Some(Event::WorkloadStarted) => {
                    self.started_at = Some(now());
                    say(Started::Ready);
                }
                Some(Event::WorkloadEnded(end)) => {
                    if let Some(failed) = self.workload_ended(end, recorder) {
                        start = Some(failed);
                    }
                }
                Some(Event::Stop {
                    force,
                    reason,
                    reply,
                }) => {
                    if let Err(refused) = self.thaw(recorder) {
                        let _ = reply.send(refused);
                        continue;
                    }
                    self.stoppers.push(reply);
                    self.stopping.ask_again();
                    let state = if force { State::Stopped } else { State::Halted };
                    self.stop(state, force, reason, recorder);
                }
                Some(Event::Kill {
                    state,
                    reason,
                    reply,
                }) => {
                    self.stoppers.push(reply);
                    self.stopping.kill_as(state, reason);
                    self.kill();
                }
                Some(Event::Wait { reply }) => {
                    self.waiting.push(reply);
                    self.end_waits_of_quarantined();
                }
                Some(Event::Pause { reply }) => {
                    let _ = reply.send(self.pause(recorder));
                }
                Some(Event::Resume { reply }) => {
                    let _ = reply.send(self.resume(recorder));
                }
                Some(Event::Snapshot { directory, reply }) => {
                    let _ = reply.send(self.snapshot(&directory, recorder));
                }
                Some(Event::Quarantine { reason, reply }) => {
                    match self.quarantine(reason, recorder) {
                        Ok(()) => self.begin_capture(recorder, reply),
                        Err(refused) => drop(reply.send(refused)),
                    }
                }
                Some(Event::Refused(what)) => {
                    self.note(&format!("the egress rules refused {what}"), recorder);
                }
                // The VM runs, or is about to be saved and gone.
                Some(Event::Wake) => self.woken = true,
                Some(Event::Captured(captured)) => self.captured(captured, recorder),
                Some(Event::VmEnded(error)) => {
                    if let Some(totals) = self.refusals.summary().totals() {
                        self.note(&totals, recorder);
                    }
                    let clean = error.is_power_off();
                    let broken = self.broken.take().filter(|_| clean);
                    let why = MachineError::of_vm(error, self.memory_mib);
                    let why = || broken.unwrap_or_else(|| error_chain(&why));
                    let (state, detail) = self.stopping.outcome(clean, why);
                    return End {
                        state,
                        detail,
                        start,
                    };
                }
            }
        }
    }

    /// Records something that does not change the state.
    pub(super) fn note(&self, detail: &str, recorder: &Recorder) {
        // Held meanwhile, so that no change of the state is recorded before it.
        let status = self.shared.status();
        if let Err(error) = recorder.note(status.state, detail) {
            tracing::warn!(%error, "{detail}");
        }
    }

    /// Records the end of the workload and shuts the guest down. Returns the report if the workload
    /// could not be executed.
    fn workload_ended(
        &mut self,
        end: Result<Exited, SessionError>,
        recorder: &Recorder,
    ) -> Option<Started> {
        self.workload = None;
        self.shared.status().workload = false;
        if self.state() == State::Quarantined {
            // Its session was severed.
            return None;
        }
        let exited = match end {
            Ok(exited) => exited,
            Err(SessionError::Refused(failure)) => {
                let error = StartError::Machine(MachineError::Refused(failure));
                self.stop(State::Failed, true, Some(error_chain(&error)), recorder);
                return Some(error.report());
            }
            Err(error) => {
                // Usually the VM has ended, and its supervisor will say why.
                self.broken = Some(error_chain(&error));
                self.stopping.force = true;
                if matches!(self.stopping.next(), Next::Nothing | Next::Workload) {
                    self.shut_down();
                }
                return None;
            }
        };
        let started_at = self.started_at.clone().unwrap_or_else(now);
        let result = WorkloadResult::new(started_at, now(), exited);
        if let Err(error) = result.write(&self.directory.result()) {
            tracing::error!(%error, "the result of the workload cannot be written");
        }
        let (state, detail) = match (exited.code, exited.signal) {
            (Some(0), _) => (State::Stopped, "the workload ended".to_owned()),
            (Some(code), _) => (
                State::Failed,
                format!("the workload ended with exit code {code}"),
            ),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                (
                    State::Failed,
                    format!("the workload was killed by signal {signal}"),
                )
            }
        };
        match self.stopping.next() {
            Next::Nothing => self.stop(state, true, Some(detail), recorder),
            Next::Workload => self.shut_down(),
            Next::Shutdown | Next::Kill => {}
        }
        None
    }

    /// Begins to end the workspace in `state`; what began earlier stays.
    fn stop(&mut self, state: State, force: bool, reason: Option<String>, recorder: &Recorder) {
        let begun = self.stopping.next() != Next::Nothing;
        self.stopping.end_as(state, reason);
        self.stopping.force |= force;
        if begun {
            return;
        }
        self.shared.status().state = State::Stopping;
        if let Err(error) = recorder.record(State::Stopping, None) {
            tracing::error!(%error, "the event cannot be recorded");
        }
        match &mut self.workload {
            Some(workload) => {
                workload.signal(self.stop_signal);
                self.stopping.wait_for_workload();
            }
            None => self.shut_down(),
        }
    }

    /// Ends the workspace if one of its limits demands it.
    fn check_limits(&mut self, recorder: &Recorder) {
        let Some((state, reason)) = self.limits.check(Instant::now()) else {
            return;
        };
        if self.state() == State::Quarantined {
            // Nothing happens in it any more.
            return;
        }
        if state == State::Suspended {
            self.suspend_idle(reason, recorder);
            return;
        }
        self.end_at_limit(state, reason, recorder);
    }

    /// Suspends the workspace because nobody uses it. One that can never be saved is stopped; one that cannot
    /// now, or was paused, goes on.
    fn suspend_idle(&mut self, reason: String, recorder: &Recorder) {
        if self.state() != State::Running {
            return;
        }
        match self.suspend(reason.clone(), recorder) {
            Ok(()) => {}
            Err(SaveError::Obstacle(obstacle)) => {
                let reason = format!("{reason}, and cannot be suspended: {obstacle}");
                self.end_at_limit(State::Stopped, reason, recorder);
            }
            // It was paused, and does not go on.
            Err(error) => {
                let reason = format!("it could not be suspended: {}", error_chain(&error));
                self.stopping.kill_as(State::Failed, Some(reason));
                self.kill();
            }
        }
    }

    fn end_at_limit(&mut self, state: State, reason: String, recorder: &Recorder) {
        // Whatever was decided before has not come about.
        self.stopping.ask_again();
        self.stopping.end_as(state, Some(reason));
        match self.thaw(recorder) {
            Ok(()) => self.stop(state, true, None, recorder),
            Err(_) => self.kill(),
        }
    }

    /// The guest did not do in time what it was asked for.
    fn deadline_passed(&mut self, recorder: &Recorder) {
        match self.stopping.next() {
            Next::Workload => self.shut_down(),
            Next::Shutdown if self.stopping.force => {
                self.stopping.kill_as(State::Stopped, None);
                self.kill();
            }
            Next::Shutdown => {
                // `halt` never kills a VM.
                self.stopping.give_up();
                self.shared.status().state = State::Running;
                let message = "the guest does not shut down".to_owned();
                let _ = recorder.record(State::Running, Some(&message));
                for reply in self.stoppers.drain(..) {
                    let _ = reply.send(Reply::Refused {
                        message: message.clone(),
                        state: Some(State::Running),
                    });
                }
            }
            Next::Nothing | Next::Kill => self.kill(),
        }
    }

    /// Asks the agent to shut the guest down.
    fn shut_down(&mut self) {
        self.stopping.wait_for_shutdown();
        let connector = self.shared.connector().clone();
        let asking = thread::Builder::new()
            .name("shutdown".into())
            .spawn(move || {
                let asked = connector
                    .open(AGENT_PORT)
                    .map_err(|error| error.to_string())
                    .and_then(|stream| session::shut_down(stream).map_err(|e| error_chain(&e)));
                if let Err(error) = asked {
                    tracing::warn!(error, "the guest cannot be shut down");
                }
            });
        if let Err(error) = asking {
            tracing::error!(%error, "cannot start a thread");
            self.kill();
        }
    }

    fn kill(&mut self) {
        self.stopping.wait_for_kill();
        self.shared.killer().kill();
    }

    /// What the threads of the clients share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Releases everything but the ports of the host, if they are to be kept.
    pub fn finish(mut self, keep_ports: bool) -> Finished {
        self.end_capture();
        let mut ports = Vec::new();
        if let Some(network) = self.shared.network() {
            if keep_ports {
                ports = network.release_ports();
            }
            network.end();
        }
        let mut lost = None;
        if let Some(Ok(supervisor)) = self.vm.take().map(JoinHandle::join) {
            lost = data_loss(&supervisor.warnings());
            supervisor.end(true);
        }
        self.stoppers.append(&mut self.waiting);
        Finished {
            waiting: self.stoppers,
            lost,
            ports,
            woken: self.woken,
            reach: self.reach,
        }
    }
}

/// What is left of a workspace whose VM has ended.
pub struct Finished {
    /// Who waits for the end.
    pub waiting: Vec<Sender<Reply>>,
    /// Which data of the guest was lost.
    pub lost: Option<String>,
    /// The ports of the host that led to the guest.
    pub ports: Vec<Bound>,
    /// Somebody wanted to use it in its last moment.
    pub woken: bool,
    /// Where requests come from.
    pub reach: Reach,
}
