//! `microagent pause`, `resume` and `quarantine`.

use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::state::State;

use super::wake::wake;
use super::{client, client_failure, get, print_state};
use crate::args::{EndArgs, NameArgs};
use crate::failure::Failure;
use crate::settings::Settings;

/// Stops the CPUs of a running workspace.
pub fn pause(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    change(&args.name, settings, State::Paused, |client| client.pause())
}

/// Lets the CPUs of a paused workspace run again, or a suspended one go on.
pub fn resume(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    wake(&get(settings, &args.name)?, &args.name, settings)?;
    change(&args.name, settings, State::Running, |client| {
        client.resume()
    })
}

/// Stops the CPUs of a workspace, and severs it from everything.
pub fn quarantine(args: EndArgs, settings: &Settings) -> Result<u8, Failure> {
    change(&args.name, settings, State::Quarantined, |client| {
        client.quarantine(args.reason)
    })
}

/// Changes a running workspace with `apply`; it is in `state` afterwards.
fn change(
    name: &str,
    settings: &Settings,
    state: State,
    apply: impl FnOnce(&Client) -> Result<(), ClientError>,
) -> Result<u8, Failure> {
    let directory = get(settings, name)?;
    let client = client(&directory, name)?;
    apply(&client).map_err(|error| client_failure(error, name))?;
    print_state(settings, name, state)
}
