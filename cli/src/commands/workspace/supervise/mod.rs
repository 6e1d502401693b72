//! `microagent supervise`: starts workspaces again that end, and checks their health.
//!
//! Each workspace has a thread. When this process ends, however it does, the workspaces keep running.

mod health;
mod unit;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::lock::Lock;
use microagent_workspace::restart::{Decision, Restarts};
use microagent_workspace::state::State;
use serde::Serialize;

use super::end::wait_for_end;
use super::starting::{Change, start_again};
use super::{get, state_of};
use crate::args::SuperviseArgs;
use crate::failure::{EXIT_FAILED, Failure};
use crate::request::resources;
use crate::settings::Settings;

/// The lock of who supervises a workspace, in its directory.
const LOCK: &str = "supervised";

/// How often to look whether a suspended workspace runs again.
const SUSPENDED_INTERVAL: Duration = Duration::from_secs(1);

/// Why a workspace is no longer supervised.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    workspace: String,
    state: State,
    /// How often it was started again.
    restarts: u32,
    /// Why, if it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Supervises workspaces until none of them is to be started again.
pub fn supervise(args: &SuperviseArgs, settings: &Settings) -> Result<u8, Failure> {
    let limit = args.max_restarts.as_deref();
    let limit = limit.map(resources::max_restarts).transpose()?;
    let mut directories = Vec::new();
    for name in &args.names {
        directories.push((name, get(settings, name)?));
    }
    if args.install || args.uninstall {
        for name in &args.names {
            unit::change(name, args.install, limit, settings)?;
        }
        return Ok(0);
    }
    let mut locks = Vec::new();
    for (name, directory) in &directories {
        locks.push(lock(directory, name)?);
    }
    let outcomes: Vec<Result<Outcome, Failure>> = thread::scope(|scope| {
        let threads: Vec<_> = directories
            .iter()
            .map(|(name, directory)| scope.spawn(|| watch(directory, name, limit, settings)))
            .collect();
        let panicked = || Failure::new(ErrorKind::Internal, "a thread panicked");
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(panicked())))
            .collect()
    });
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    if settings.output.json {
        settings.output.document(&outcomes)?;
    }
    let well = outcomes.iter().all(|outcome| outcome.why.is_none());
    Ok(if well { 0 } else { EXIT_FAILED })
}

fn lock(directory: &WorkspaceDir, name: &str) -> Result<Lock, Failure> {
    super::lock(&directory.path().join(LOCK))?.ok_or_else(|| {
        let message = format!("workspace {name} is already supervised");
        Failure::new(ErrorKind::Conflict, message)
    })
}

/// Supervises one workspace.
fn watch(
    directory: &WorkspaceDir,
    name: &str,
    limit: Option<u32>,
    settings: &Settings,
) -> Result<Outcome, Failure> {
    let say = |what: &str| settings.output.notice(&format!("{name}: {what}"));
    let mut restarts = Restarts::new(limit);
    let mut count = 0;
    // Since when it runs, once that is known.
    let mut running = None;
    // Why it could not be started.
    let mut refused: Option<String> = None;
    let (mut first, mut suspended) = (true, false);
    loop {
        let (mut state, mut event) = state_of(directory)?;
        if state == State::Suspended && running.is_none() {
            if !suspended {
                say("is suspended");
            }
            (suspended, first) = (true, false);
            // Whoever wakes it tells nobody else.
            thread::sleep(SUSPENDED_INTERVAL);
            continue;
        }
        suspended = false;
        if state.is_live() && running.is_none() {
            say("is running");
            running = Some(Instant::now());
        }
        let mut ran = Duration::ZERO;
        if let Some(since) = running.take() {
            state = supervise_running(directory, name, since, settings)?;
            ran = since.elapsed();
            first = false;
            event = state_of(directory)?.1;
            if state == State::Suspended {
                continue;
            }
        }
        let mut why = event.and_then(|event| event.detail).unwrap_or_default();
        if let Some(refused) = refused.take() {
            (state, why) = (State::Failed, refused);
        }
        if !first {
            let separator = if why.is_empty() { "" } else { ": " };
            say(&format!("{state}{separator}{why}"));
        }
        // As it is now: it may have been changed meanwhile.
        let policy = directory.known_spec()?.restart.unwrap_or_default();
        let decision = match first {
            true => restarts.first(policy, state),
            false => restarts.next(policy, state, ran),
        };
        let delay = match decision {
            Decision::Start(delay) => delay,
            Decision::Leave | Decision::GiveUp => {
                if decision == Decision::GiveUp {
                    why = format!("it was started again {count} times, which is the limit");
                    say(&why);
                }
                let well = decision == Decision::Leave
                    && !matches!(state, State::Failed | State::Quarantined);
                return Ok(Outcome {
                    workspace: name.to_owned(),
                    state,
                    restarts: count,
                    why: (!well).then_some(why),
                });
            }
        };
        if !first {
            say(&format!("starts again in {} s", delay.as_secs()));
            count += 1;
        }
        first = false;
        thread::sleep(delay);
        // Somebody else may have started it.
        if state_of(directory)?.0.is_live() {
            continue;
        }
        match start_again(directory, name, &Change::default(), settings) {
            Ok(()) => {
                say("started");
                running = Some(Instant::now());
            }
            // It was deleted.
            Err(failure) if !directory.path().exists() => return Err(failure),
            Err(failure) => refused = Some(failure.message),
        }
    }
}

/// Waits for the end of a workspace that runs, and checks its health meanwhile.
fn supervise_running(
    directory: &WorkspaceDir,
    name: &str,
    started: Instant,
    settings: &Settings,
) -> Result<State, Failure> {
    thread::scope(|scope| {
        let (end, ended) = mpsc::channel();
        scope.spawn(move || health::watch(directory, name, started, &ended, settings));
        let state = wait_for_end(directory, name, None).map(|ended| ended.state);
        drop(end);
        state
    })
}
