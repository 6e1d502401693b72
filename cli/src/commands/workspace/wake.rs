//! A suspended workspace goes on, or is forgotten.

use std::thread;

use microagent_pipeline::ErrorKind;
use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::creation::random_id;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::event::{self, Event, now};
use microagent_workspace::lock::is_held;
use microagent_workspace::saved::{self, Saved};
use microagent_workspace::state::State;

use super::starting::{Change, start_again};
use super::{INTERVAL, client_failure, lock, state_of};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;

/// Lets a suspended workspace go on, and returns when it runs. One in another state stays as it is.
pub(super) fn wake(
    directory: &WorkspaceDir,
    name: &str,
    settings: &Settings,
) -> Result<(), Failure> {
    let is_locked = || is_held(&directory.lock()).unwrap_or(true);
    // Another command may be waking it.
    let mut asked = saved::suspended(directory).is_some();
    loop {
        match state_of(directory)?.0 {
            State::Suspended => {}
            State::Starting if asked => {
                thread::sleep(INTERVAL);
                continue;
            }
            _ => return Ok(()),
        }
        // A process that keeps its ports wakes it.
        match Client::new(directory).and_then(|client| client.resume()) {
            Ok(()) => asked = true,
            // It has just been saved, and its process is about to end.
            Err(ClientError::Refused {
                state: Some(State::Suspended),
                ..
            }) => {}
            // Another command is starting it.
            Err(ClientError::NotRunning) if is_locked() => asked = true,
            Err(ClientError::NotRunning) => {
                match start_again(directory, name, &Change::default(), settings) {
                    Err(failure) if failure.kind == ErrorKind::Conflict && is_locked() => {
                        asked = true;
                    }
                    started => return started,
                }
            }
            Err(error) => return Err(client_failure(error, name)),
        }
        thread::sleep(INTERVAL);
    }
}

/// Lets the process go that keeps the ports of a suspended workspace, if there is one. The workspace stays
/// suspended.
pub(super) fn leave(directory: &WorkspaceDir, name: &str) -> Result<(), Failure> {
    match Client::new(directory).and_then(|client| client.stop(true, None)) {
        Ok(_) | Err(ClientError::NotRunning) => Ok(()),
        Err(error) => Err(client_failure(error, name)),
    }
}

/// Forgets the memory of a suspended workspace; returns its state then.
pub(super) fn forget(
    directory: &WorkspaceDir,
    name: &str,
    reason: Option<String>,
) -> Result<State, Failure> {
    match Client::new(directory).and_then(|client| client.kill(reason.clone())) {
        Err(ClientError::NotRunning) => {}
        killed => return killed.map_err(|error| client_failure(error, name)),
    }
    let Some(_lock) = lock(&directory.lock())? else {
        let message = format!("workspace {name} is being started by another command");
        return Err(Failure::new(ErrorKind::Conflict, message));
    };
    let (state, last) = state_of(directory)?;
    let Some(last) = last.filter(|_| state == State::Suspended) else {
        return Ok(state);
    };
    let stopped = Event {
        request_id: random_id()?,
        state: State::Stopped,
        observed_at: now(),
        detail: reason,
        ..last
    };
    let forgotten = Saved::of(directory)
        .discard_vm()
        .and_then(|()| event::record(directory.path(), stopped));
    forgotten.map_err(|error| {
        let message = format!("cannot discard the memory of {name}: {error}");
        Failure::new(kind_of(&error), message)
    })?;
    Ok(State::Stopped)
}
