//! `microagent delete`.

use std::thread;
use std::time::{Duration, Instant};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::client::Client;
use microagent_workspace::creation;
use microagent_workspace::dir::DirError;
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::state::State;
use serde::Serialize;

use super::{INTERVAL, lock, state_of, workspaces};
use crate::args::DeleteArgs;
use crate::failure::Failure;
use crate::settings::Settings;

/// How long a VM that is killed may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    /// Whether there was one.
    deleted: bool,
}

/// Deletes workspaces, and what killed processes left of others. An absent one is fine; a running one
/// is refused without `--force`.
pub fn delete(args: &DeleteArgs, settings: &Settings) -> Result<u8, Failure> {
    let mut documents = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match delete_one(name, args.force, settings) {
            Ok(deleted) => documents.push(Document {
                workspace: name.clone(),
                deleted,
            }),
            Err(failure) => failures.push(failure),
        }
    }
    sweep(settings);
    if settings.output.json {
        settings.output.document(&documents)?;
    } else {
        for document in documents.iter().filter(|document| document.deleted) {
            settings.output.text(&format!("{}\n", document.workspace))?;
        }
    }
    // The others are named as notices.
    let mut failures = failures.into_iter();
    match failures.next() {
        Some(first) => {
            failures.for_each(|failure| settings.output.notice(&failure.message));
            Err(first)
        }
        None => Ok(0),
    }
}

fn delete_one(name: &str, force: bool, settings: &Settings) -> Result<bool, Failure> {
    let directory = match workspaces(settings).find(name) {
        Ok(directory) => directory,
        Err(DirError::Absent(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let path = directory.lock();
    let mut held = lock(&path)?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    // A suspended one runs nothing, even if a process keeps its ports.
    let force = held.is_none() && (force || state_of(&directory)?.0 == State::Suspended);
    while held.is_none() && force && Instant::now() < deadline {
        // Whether it obeys is seen in the lock.
        if let Ok(client) = Client::new(&directory) {
            let _ = client.kill(Some("deleted".to_owned()));
        }
        held = lock(&path)?;
        if held.is_none() {
            thread::sleep(INTERVAL);
        }
    }
    let Some(_lock) = held else {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is running"),
        )
        .remediation(format!(
            "stop it first: microagent stop {name}; or kill it: microagent delete --force {name}"
        )));
    };
    let store = Store::open(&settings.store_dir())?;
    creation::delete(&store, directory, name)?;
    Ok(true)
}

/// Removes what processes left that were killed: incomplete workspaces, and directories of sockets.
fn sweep(settings: &Settings) {
    RunDir::sweep_for_daemon();
    let directory = settings.store_dir();
    // Nothing was created in a state directory without a store.
    if directory.is_dir()
        && let Ok(store) = Store::open(&directory)
    {
        creation::sweep(&workspaces(settings), &store);
    }
}
