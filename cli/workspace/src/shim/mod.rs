//! The process that keeps the VM of a workspace. It outlives the command that starts it.
//!
//! It holds the workspace's [lock](crate::lock) from the start to the end, which is how others know
//! that the workspace lives; it starts the supervisor of the VM, runs the workload, keeps its output,
//! answers [requests](protocol), and records events. When it is killed, the kernel releases the lock
//! and the VM ends. It also suspends a workspace that nobody uses, and stays if ports of the host lead to
//! it: a connection [wakes](door) the workspace.
//!
//! ```text
//!  start ──config, lock──▶ shim ──control socket──▶ supervisor ──vsock──▶ agent
//!        ◀──── report ────  ▲  └───────────── workload's session ──────────▲
//!  exec, stop, … ──socket───┘ (streams to the guest are passed through)
//! ```
//!
//! [`run`] is the whole process; [`spawn`] starts one. [`launch`] boots the VM, [`running`] handles
//! what happens until its end.

mod capture;
pub mod config;
mod console;
mod door;
mod end;
mod error;
mod freeze;
mod holder;
mod launch;
mod limits;
mod listener;
mod message;
mod origin;
mod outcome;
mod packet;
pub mod protocol;
mod reach;
mod record;
mod running;
mod savable;
mod signals;
mod snapshot;
pub mod spawn;
mod subscribers;
mod workload;

use std::fs;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use microagent_proto::error_chain;

use self::config::{Origin, ShimConfig, Started};
use self::console::keep_console;
use self::door::Door;
use self::error::StartError;
pub use self::holder::Holder;
use self::message::Event;
use self::outcome::{End, Ending, ended_early};
pub(crate) use self::packet::{receive, send};
use self::protocol::Reply;
use self::record::Recorder;
use self::running::Shim;
use crate::dir::WorkspaceDir;
use crate::lock::Lock;
use crate::quarantine::sweep;
use crate::result::WorkloadResult;
use crate::saved::{self, Saved};
use crate::state::State;

/// How long clients may take to be told of the last event.
const TOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the workspace that `config` describes until it ends, and calls `report` when it is ready or
/// could not be started. For a process that does nothing else.
pub fn run(mut config: ShimConfig, lock: Lock, report: impl FnOnce(Started)) {
    let recorder = Recorder::new(&config);
    let directory = WorkspaceDir::at(config.directory.clone());
    directory.remove_leftovers();
    sweep(&directory);
    // That of the last time.
    let _ = fs::remove_file(directory.result());
    let mut report = Some(report);
    let mut say = |started: Started| {
        if let Some(report) = report.take() {
            report(started);
        }
    };
    let (mut ports, mut former) = (None, None);
    loop {
        let (sender, events) = mpsc::channel();
        let ending = Ending::default();
        let started = recorder
            .record(State::Starting, None)
            .map_err(StartError::Record)
            .and_then(|()| {
                let console = keep_console(&directory.console()).map_err(StartError::Output)?;
                let config = config.clone();
                let shim = Shim::start(config, ports.take(), &recorder, &lock, &sender, &ending)?;
                Ok((shim, console))
            });
        // Nobody was refused in between.
        drop(former.take());
        let (mut shim, console) = match started {
            Ok(started) => started,
            Err(error) => {
                let recorder = (&recorder, &directory);
                return not_started(&error, &ending, lock, recorder, &events, say);
            }
        };
        let mut end = shim.watch(&events, &recorder, &mut say);
        let shared = shim.shared();
        let finished = shim.finish(end.state == State::Suspended);
        if let Some(lost) = finished.lost {
            end.state = State::Failed;
            end.detail = Some(lost);
        }
        console.close();
        if end.state != State::Suspended {
            // It was killed when it had just been saved.
            let _ = Saved::of(&directory).discard_vm();
        }
        if let Err(error) = recorder.record(end.state, end.detail.as_deref()) {
            tracing::error!(%error, "the end of the workspace cannot be recorded");
        }
        let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
        let mut replies = finished.waiting;
        if end.state == State::Suspended && !finished.ports.is_empty() {
            tell(replies.drain(..), end.state, None);
            if finished.woken {
                let _ = sender.send(Event::Wake);
            }
            match door::keep(finished.ports, &events, sender) {
                Ok(Door::Woken(kept)) => {
                    shared.status().state = State::Starting;
                    ports = Some(kept);
                    former = Some(finished.reach);
                    config.origin = Origin::Saved(config.directory.clone());
                    continue;
                }
                Ok(Door::Killed {
                    state,
                    reason,
                    reply,
                }) => {
                    replies.push(reply);
                    (end.state, end.detail) = (state, reason);
                    forget(&directory, &end, &recorder);
                }
                Ok(Door::Closed(reply)) => replies.extend(reply),
                Err(error) => tracing::error!(%error, "its ports cannot be kept"),
            }
        }
        // Whoever is told of the end may start the workspace again.
        drop(lock);
        recorder.subscribers().close(TOLD_TIMEOUT);
        say(end.report());
        for event in events.try_iter() {
            match event {
                // Another process wakes it.
                Event::Resume { reply } if end.state == State::Suspended => {
                    let _ = reply.send(Reply::is(end.state));
                }
                event => replies.extend(event.into_reply()),
            }
        }
        tell(replies, end.state, result);
        shared.wait_for_clients();
        return;
    }
}

/// Records that a workspace could not be started.
fn not_started(
    error: &StartError,
    ending: &Ending,
    lock: Lock,
    (recorder, directory): (&Recorder, &WorkspaceDir),
    events: &Receiver<Event>,
    mut say: impl FnMut(Started),
) {
    // A client may have ended it meanwhile.
    let (decided, why) = (ending.take(), Some(error_chain(error)));
    let report = match &decided {
        Some((state, _)) if *state != State::Failed => ended_early(),
        _ => error.report(),
    };
    // A guest that has not run yet can still go on.
    let (state, detail) = match saved::suspended(directory) {
        Some(_) => (State::Suspended, why),
        None => decided.unwrap_or((State::Failed, why)),
    };
    let _ = recorder.record(state, detail.as_deref());
    drop(lock);
    recorder.subscribers().close(TOLD_TIMEOUT);
    say(report);
    let replies = events.try_iter().filter_map(Event::into_reply);
    tell(replies, state, None);
}

/// Forgets the memory of a suspended workspace.
fn forget(directory: &WorkspaceDir, end: &End, recorder: &Recorder) {
    let forgotten = Saved::of(directory)
        .discard_vm()
        .and_then(|()| recorder.record(end.state, end.detail.as_deref()));
    if let Err(error) = forgotten {
        tracing::error!(%error, "the end of the workspace cannot be recorded");
    }
}

/// Tells clients how it ended.
fn tell(
    replies: impl IntoIterator<Item = Sender<Reply>>,
    state: State,
    result: Option<WorkloadResult>,
) {
    for reply in replies {
        let result = result.clone();
        let _ = reply.send(Reply::Ended { state, result });
    }
}
