//! `microagent stop`, `halt`, `kill` and `wait`.

use std::thread;
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_workspace::client::{Client, ClientError, Ended};
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::state::State;

use super::wake::{forget, wake};
use super::{INTERVAL, client, client_failure, get, print_state, state_of};
use crate::args::{EndArgs, WaitArgs};
use crate::failure::{EXIT_FAILED, EXIT_TIMED_OUT, Failure};
use crate::request::resources;
use crate::settings::Settings;

/// How a workspace is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Shut the guest down, and kill the VM if it does not obey.
    Stop,
    /// Shut the guest down.
    Halt,
    /// Kill the VM.
    Kill,
}

/// Ends a running or suspended workspace.
pub fn end(how: End, args: EndArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    loop {
        let state = end_once(how, &args, &directory, settings)?;
        // It is if it was suspended at the same moment.
        if state != State::Suspended {
            return print_state(settings, &args.name, state);
        }
    }
}

/// Returns the state after the end.
fn end_once(
    how: End,
    args: &EndArgs,
    directory: &WorkspaceDir,
    settings: &Settings,
) -> Result<State, Failure> {
    let (name, reason) = (&args.name, args.reason.clone());
    let (mut state, _) = state_of(directory)?;
    if state == State::Suspended {
        if how == End::Kill {
            return forget(directory, name, reason);
        }
        // What its programs have not written yet is in its memory.
        wake(directory, name, settings)?;
        state = state_of(directory)?.0;
    }
    if how != End::Kill && !state.is_live() {
        return Ok(state);
    }
    let client = client(directory, name)?;
    let ended = match how {
        End::Stop => client.stop(true, reason),
        End::Halt => client.stop(false, reason),
        End::Kill => client.kill(reason),
    };
    match ended {
        // It ended by itself at the same moment.
        Err(ClientError::NotRunning) => loop {
            let (state, _) = state_of(directory)?;
            if !state.is_live() {
                return Ok(state);
            }
            thread::sleep(INTERVAL);
        },
        ended => ended.map_err(|error| client_failure(error, name)),
    }
}

/// Waits until a workspace has ended; exit code 0 if it did not fail, 124 after `--timeout`.
pub fn wait(args: &WaitArgs, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let limit = args
        .timeout
        .as_deref()
        .map(resources::timeout)
        .transpose()?;
    let directory = get(settings, name)?;
    let ended = wait_for_end(&directory, name, limit)?;
    let code = match ended.state {
        State::Failed | State::Quarantined => EXIT_FAILED,
        _ => 0,
    };
    print_state(settings, name, ended.state)?;
    Ok(code)
}

/// Waits until the workspace has ended, at most for `limit` seconds.
pub(super) fn wait_for_end(
    directory: &WorkspaceDir,
    name: &str,
    limit: Option<u64>,
) -> Result<Ended, Failure> {
    let deadline = limit.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let late = || {
        let seconds = limit.unwrap_or_default();
        let message = format!("workspace {name} has not ended within {seconds} s");
        Failure::new(ErrorKind::Timeout, message).exits(EXIT_TIMED_OUT)
    };
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(late());
        }
        match Client::new(directory).and_then(|client| client.wait(left)) {
            Ok(ended) => return Ok(ended),
            Err(ClientError::NotRunning) => {}
            Err(ClientError::NoAnswer) => return Err(late()),
            Err(error) => return Err(client_failure(error, name)),
        }
        let (state, _) = state_of(directory)?;
        if !state.is_live() {
            let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
            return Ok(Ended { state, result });
        }
        // It does not listen yet, or was killed a moment ago.
        thread::sleep(INTERVAL);
    }
}
