//! The process that keeps the VM of a workspace. It outlives the command that starts it.
//!
//! It holds the workspace's [lock](crate::lock) from the start to the end, which is how others know
//! that the workspace lives; it starts the supervisor of the VM, runs the workload, keeps its output,
//! answers [requests](protocol), and records events. When it is killed, the kernel releases the lock
//! and the VM ends.
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
mod record;
mod running;
mod savable;
mod signals;
mod snapshot;
pub mod spawn;
mod subscribers;
mod workload;

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use microagent_proto::error_chain;

use self::config::{ShimConfig, Started};
use self::console::keep_console;
use self::error::StartError;
pub use self::holder::Holder;
use self::message::Event;
use self::outcome::{Ending, ended_early};
pub(crate) use self::packet::{receive, send};
use self::protocol::Reply;
use self::record::Recorder;
use self::running::Shim;
use crate::dir::WorkspaceDir;
use crate::lock::Lock;
use crate::quarantine::sweep;
use crate::result::WorkloadResult;
use crate::state::State;

/// How long clients may take to be told of the last event.
const TOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the workspace that `config` describes until it ends, and calls `report` when it is ready or
/// could not be started. For a process that does nothing else.
pub fn run(config: ShimConfig, lock: Lock, report: impl FnOnce(Started)) {
    let recorder = Recorder::new(&config);
    let directory = WorkspaceDir::at(config.directory.clone());
    directory.remove_leftovers();
    sweep(&directory);
    // That of the last time.
    let _ = fs::remove_file(directory.result());
    let (sender, events) = mpsc::channel();
    let ending = Ending::default();
    let mut report = Some(report);
    let mut say = |started: Started| {
        if let Some(report) = report.take() {
            report(started);
        }
    };
    let started = recorder
        .record(State::Starting, None)
        .map_err(StartError::Record)
        .and_then(|()| {
            let console = keep_console(&directory.console()).map_err(StartError::Output)?;
            let shim = Shim::start(config, &recorder, &lock, &sender, &ending)?;
            Ok((shim, console))
        });
    match started {
        Ok((mut shim, console)) => {
            let mut end = shim.watch(&events, &recorder, &mut say);
            let shared = shim.shared();
            let (mut replies, lost) = shim.finish();
            if let Some(lost) = lost {
                end.state = State::Failed;
                end.detail = Some(lost);
            }
            console.close();
            if let Err(error) = recorder.record(end.state, end.detail.as_deref()) {
                tracing::error!(%error, "the end of the workspace cannot be recorded");
            }
            let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
            // Whoever is told of the end may start the workspace again.
            drop(lock);
            recorder.subscribers().close(TOLD_TIMEOUT);
            say(end.report());
            replies.extend(events.try_iter().filter_map(Event::into_reply));
            for reply in replies {
                let (state, result) = (end.state, result.clone());
                let _ = reply.send(Reply::Ended { state, result });
            }
            shared.wait_for_clients();
        }
        Err(error) => {
            // A client may have ended it meanwhile.
            let decided = ending.take();
            let (state, detail) = decided.unwrap_or((State::Failed, Some(error_chain(&error))));
            let _ = recorder.record(state, detail.as_deref());
            drop(lock);
            recorder.subscribers().close(TOLD_TIMEOUT);
            say(match state {
                State::Failed => error.report(),
                _ => ended_early(),
            });
            for reply in events.try_iter().filter_map(Event::into_reply) {
                let result = None;
                let _ = reply.send(Reply::Ended { state, result });
            }
        }
    }
}
