//! `microagent stop`, `halt`, `kill` and `wait`.

use std::thread;

use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::state::State;

use super::{INTERVAL, client, client_failure, get, print_state, state_of};
use crate::args::{EndArgs, NameArgs};
use crate::failure::{EXIT_FAILED, Failure};
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

/// Ends a running workspace.
pub fn end(how: End, args: EndArgs, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let directory = get(settings, name)?;
    let (state, _) = state_of(&directory)?;
    if how != End::Kill && !state.is_live() {
        return print_state(settings, name, state);
    }
    let client = client(&directory, name)?;
    let ended = match how {
        End::Stop => client.stop(true, args.reason),
        End::Halt => client.stop(false, args.reason),
        End::Kill => client.kill(args.reason),
    };
    let state = match ended {
        Ok(state) => state,
        // It ended by itself at the same moment.
        Err(ClientError::NotRunning) => loop {
            let (state, _) = state_of(&directory)?;
            if !state.is_live() {
                break state;
            }
            thread::sleep(INTERVAL);
        },
        Err(error) => return Err(client_failure(error, name)),
    };
    print_state(settings, name, state)
}

/// Waits until a workspace has ended; exit code 0 if it did not fail.
pub fn wait(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let directory = get(settings, name)?;
    let state = loop {
        match Client::new(&directory).and_then(|client| client.wait()) {
            Ok(state) => break state,
            Err(ClientError::NotRunning) => {}
            Err(error) => return Err(client_failure(error, name)),
        }
        let (state, _) = state_of(&directory)?;
        if !state.is_live() {
            break state;
        }
        // It does not listen yet, or was killed a moment ago.
        thread::sleep(INTERVAL);
    };
    let code = match state {
        State::Failed | State::Quarantined => EXIT_FAILED,
        _ => 0,
    };
    print_state(settings, name, state)?;
    Ok(code)
}
