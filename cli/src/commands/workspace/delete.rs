//! `microagent delete`.

use std::thread;
use std::time::{Duration, Instant};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::client::Client;
use microagent_workspace::dir::DirError;
use microagent_workspace::lock::Lock;
use serde::Serialize;

use super::create::release;
use super::{INTERVAL, workspaces};
use crate::args::DeleteArgs;
use crate::failure::{Failure, kind_of};
use crate::run::workspace::LOCK as RUN_LOCK;
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

/// Deletes workspaces. An absent one is fine; a running one is refused without `--force`.
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
    let acquire = || {
        Lock::acquire(&path).map_err(|error| {
            Failure::new(
                kind_of(&error),
                format!("cannot lock {}: {error}", path.display()),
            )
        })
    };
    let mut lock = acquire()?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    while lock.is_none() && force && Instant::now() < deadline {
        // Whether it obeys is seen in the lock.
        if let Ok(client) = Client::new(&directory) {
            let _ = client.kill(Some("deleted".to_owned()));
        }
        lock = acquire()?;
        if lock.is_none() {
            thread::sleep(INTERVAL);
        }
    }
    let Some(_lock) = lock else {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is running"),
        )
        .remediation(format!(
            "stop it first: microagent stop {name}; or kill it: microagent delete --force {name}"
        )));
    };
    if directory.path().join(RUN_LOCK).exists() {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("{name} belongs to a run with --keep that has not ended"),
        ));
    }
    // A damaged manifest does not keep the rest.
    let spec = directory.spec();
    let store = Store::open(&settings.store_dir())?;
    let path = directory.path().to_owned();
    let removed = directory.remove();
    if let Ok(spec) = spec
        && !path.exists()
    {
        release(&store, &spec, Some(name))?;
    }
    removed?;
    Ok(true)
}
