//! The commands for workspaces. What they do is in `microagent_workspace`; here it is called and
//! printed.

mod alike;
mod apply;
mod artifacts;
mod attached;
mod clone;
mod commit;
mod connect;
mod cp;
mod create;
mod delete;
mod diff;
mod end;
mod exec;
mod files;
mod freeze;
mod logs;
mod network;
mod saved_as;
mod short_boot;
mod snapshot;
mod start;
mod starting;
mod stats;
mod status;
mod supervise;
mod target;
mod wake;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::dir::{DirError, WorkspaceDir, Workspaces};
use microagent_workspace::event::{self, Event};
use microagent_workspace::lock::{Lock, is_held};
use microagent_workspace::saved;
use microagent_workspace::start::ManifestError;
use microagent_workspace::state::State;
use serde::Serialize;

pub use apply::apply;
pub use artifacts::artifacts;
pub use clone::clone;
pub use commit::commit;
pub use connect::connect;
pub use cp::cp;
pub use create::create;
pub use delete::delete;
pub use diff::diff;
pub use end::{End, end, wait};
pub use exec::exec;
pub use freeze::{pause, quarantine, resume};
pub use logs::{events, logs, result, spec};
pub use network::network;
pub use snapshot::snapshot;
pub use start::start;
pub use starting::run_shim_mode;
pub use stats::stats;
pub use status::{list, status};
pub use supervise::supervise;

use crate::failure::{Failure, kind_of};
use crate::settings::Settings;

/// A workspace and its state.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StateDocument<'a> {
    workspace: &'a str,
    state: State,
}

/// Prints the state of a workspace after a command: its name, or the document.
fn print_state(settings: &Settings, name: &str, state: State) -> Result<u8, Failure> {
    match settings.output.json {
        true => settings.output.document(&StateDocument {
            workspace: name,
            state,
        })?,
        false => settings.output.text(&format!("{name}\n"))?,
    }
    Ok(0)
}

fn workspaces(settings: &Settings) -> Workspaces {
    Workspaces::of(&settings.state_dir)
}

/// The workspace `name`.
fn get(settings: &Settings, name: &str) -> Result<WorkspaceDir, Failure> {
    Ok(workspaces(settings).get(name)?)
}

/// The state of a workspace, and its last event.
fn state_of(directory: &WorkspaceDir) -> Result<(State, Option<Event>), Failure> {
    let path = directory.path();
    let cannot = |error| {
        let message = format!("cannot read the state of {}: {error}", path.display());
        Failure::new(kind_of(&error), message)
    };
    // The event belongs to the lock only if that did not change meanwhile. Who changes it twice in
    // this time has recorded a state that was true.
    let mut held = is_held(&directory.lock()).map_err(cannot)?;
    for _ in 0..3 {
        let last = event::last(path).map_err(cannot)?;
        let still = is_held(&directory.lock()).map_err(cannot)?;
        if still == held {
            let recorded = last.as_ref().map_or(State::Failed, |event| event.state);
            let state = with_memory(directory, State::compute(recorded, held));
            return Ok((state, last));
        }
        held = still;
    }
    let last = event::last(path).map_err(cannot)?;
    Ok((
        last.as_ref().map_or(State::Failed, |event| event.state),
        last,
    ))
}

/// A workspace that does not run is suspended if its memory can be gone on from, whatever was recorded.
fn with_memory(directory: &WorkspaceDir, state: State) -> State {
    match (state.is_live(), saved::suspended(directory).is_some()) {
        (false, true) => State::Suspended,
        (false, false) if state == State::Suspended => State::Failed,
        _ => state,
    }
}

/// What needs a workspace that is stopped is asked of one in this state.
fn not_stopped(state: State, name: &str) -> Failure {
    Failure::new(ErrorKind::Conflict, format!("workspace {name} is {state}"))
        .remediation(format!("stop it first: microagent stop {name}"))
}

/// Takes a lock of a workspace; `None` if another process holds it.
fn lock(path: &Path) -> Result<Option<Lock>, Failure> {
    Lock::acquire(path).map_err(|error| {
        let message = format!("cannot lock {}: {error}", path.display());
        Failure::new(kind_of(&error), message)
    })
}

/// How long a supervisor that has just been started may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look meanwhile: a lock that is released and a socket that appears send no event.
const INTERVAL: Duration = Duration::from_millis(20);

/// The client of a running workspace. Waits for a supervisor that does not listen yet.
fn client(directory: &WorkspaceDir, name: &str) -> Result<Client, Failure> {
    ask(directory, name, |client| client.status().map(drop)).map(|(client, ())| client)
}

/// The same, and what it answers to the question that `ask` puts.
fn ask<T>(
    directory: &WorkspaceDir,
    name: &str,
    ask: impl Fn(&Client) -> Result<T, ClientError>,
) -> Result<(Client, T), Failure> {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    loop {
        let found = Client::new(directory);
        let answered = found.and_then(|client| ask(&client).map(|answer| (client, answer)));
        match answered {
            Err(ClientError::NotRunning)
                if state_of(directory)?.0.is_live() && Instant::now() < deadline =>
            {
                thread::sleep(INTERVAL);
            }
            answered => return answered.map_err(|error| client_failure(error, name)),
        }
    }
}

fn client_failure(error: ClientError, name: &str) -> Failure {
    match error {
        ClientError::NotRunning => Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is not running"),
        )
        .remediation(format!("start it first: microagent start {name}")),
        ClientError::Refused { message, state } => {
            let remediation = match state {
                Some(State::Suspended) => Some(format!("wake it first: microagent start {name}")),
                Some(State::Paused) => Some(format!("let it run again: microagent resume {name}")),
                Some(State::Quarantined) => Some(format!("kill it: microagent kill {name}")),
                // Only `halt` fails because the VM still runs.
                Some(State::Running) => {
                    Some(format!("shut it down by force: microagent stop {name}"))
                }
                _ => None,
            };
            Failure::new(ErrorKind::Conflict, format!("workspace {name}: {message}"))
                .maybe_remediation(remediation)
        }
        error => Failure::caused(ErrorKind::Host, &error),
    }
}

impl From<DirError> for Failure {
    fn from(error: DirError) -> Failure {
        let kind = match &error {
            DirError::Io { source, .. } => kind_of(source),
            DirError::Absent(_) => ErrorKind::NotFound,
            DirError::Exists(_) | DirError::Reserved(_) => ErrorKind::Conflict,
            _ => ErrorKind::Corrupt,
        };
        let remediation = match &error {
            DirError::Absent(_) => Some("list them: microagent list".to_owned()),
            DirError::Exists(name) => Some(format!(
                "use another name, or delete it first: microagent delete {name}"
            )),
            _ => None,
        };
        Failure::caused(kind, &error).maybe_remediation(remediation)
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Failure {
        Failure::caused(ErrorKind::Corrupt, &error)
    }
}
