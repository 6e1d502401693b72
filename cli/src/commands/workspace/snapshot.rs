//! `microagent snapshot`.

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::creation;
use microagent_workspace::dir::{DirError, Workspaces};
use microagent_workspace::saved::Saved;
use serde::Serialize;

use super::alike::make_alike;
use super::saved_as::{Name, Snapshot};
use super::{client, client_failure, get, lock};
use crate::args::{SnapshotArgs, SnapshotCommand, SnapshotDeleteArgs, SnapshotListArgs};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

/// Takes, lists and deletes snapshots.
pub fn snapshot(
    command: &SnapshotCommand,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    match command {
        SnapshotCommand::Create(args) => create(args, settings, termination),
        SnapshotCommand::Ls(args) => list(args, settings),
        SnapshotCommand::Delete(args) => delete(args, settings),
    }
}

/// What `--json` prints of a snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    snapshot: String,
    workspace: String,
    saved_at: String,
    memory_mib: u64,
    cpu_count: u32,
    /// Whether the workload runs in it.
    workload: bool,
    /// What it takes on the disk.
    bytes: u64,
}

impl Document {
    fn of(snapshot: &Snapshot) -> Result<Document, Failure> {
        let bytes = Saved::at(snapshot.path()).bytes();
        let facts = &snapshot.facts;
        Ok(Document {
            snapshot: snapshot.name.to_string(),
            workspace: snapshot.name.workspace.clone(),
            saved_at: facts.saved_at.clone(),
            memory_mib: facts.memory_mib,
            cpu_count: facts.cpu_count,
            workload: facts.workload,
            bytes: bytes.map_err(|error| snapshot.failed("read", &error))?,
        })
    }
}

fn create(
    args: &SnapshotArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let name = Name::parse(&args.snapshot)?;
    let directory = get(settings, &name.workspace)?;
    let client = client(&directory, &name.workspace)?;
    let store = Store::open(&settings.store_dir())?;
    let new = match creation::begin(&name.siblings(settings), &store, &name.tag) {
        Err(DirError::Exists(_)) => {
            let message = format!("snapshot {name} exists already");
            return Err(
                Failure::new(ErrorKind::Conflict, message).remediation(format!(
                    "use another tag, or delete it first: microagent snapshot delete {name}"
                )),
            );
        }
        begun => begun?,
    };
    make_alike(new, directory.spec()?, &store, termination, |to| {
        (client.snapshot(to)).map_err(|error| client_failure(error, &name.workspace))?;
        let sealed = Saved::at(to.to_owned()).seal();
        sealed.map_err(|error| {
            let message = format!("cannot write snapshot {name}: {error}");
            Failure::new(kind_of(&error), message)
        })
    })?;
    if settings.output.json {
        let snapshot = Snapshot::find(settings, &name.to_string())?;
        settings.output.document(&Document::of(&snapshot)?)?;
    } else {
        settings.output.text(&format!("{name}\n"))?;
    }
    Ok(0)
}

fn list(args: &SnapshotListArgs, settings: &Settings) -> Result<u8, Failure> {
    let mut documents = Vec::new();
    for workspace in Workspaces::with_snapshots(&settings.state_dir)? {
        if args
            .workspace
            .as_ref()
            .is_some_and(|only| *only != workspace)
        {
            continue;
        }
        for tag in Workspaces::snapshots(&settings.state_dir, &workspace).names()? {
            let text = format!("{workspace}:{tag}");
            match Snapshot::find(settings, &text).and_then(|found| Document::of(&found)) {
                Ok(document) => documents.push(document),
                // Deleted meanwhile, or damaged; that is no reason to hide the others.
                Err(failure) if failure.kind == ErrorKind::NotFound => {}
                Err(failure) => settings.output.notice(&failure.message),
            }
        }
    }
    if settings.output.json {
        settings.output.document(&documents)?;
        return Ok(0);
    }
    let header = ["SNAPSHOT", "SAVED", "MEMORY", "CPUS", "DISK"].map(str::to_owned);
    let row = |it: &Document| {
        vec![
            it.snapshot.clone(),
            it.saved_at.clone(),
            format!("{} MiB", it.memory_mib),
            it.cpu_count.to_string(),
            format!("{} MiB", it.bytes >> 20),
        ]
    };
    let rows = [vec![header.to_vec()], documents.iter().map(row).collect()].concat();
    settings.output.text(&table(&rows))?;
    Ok(0)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deleted {
    snapshot: String,
    /// Whether there was one.
    deleted: bool,
}

fn delete(args: &SnapshotDeleteArgs, settings: &Settings) -> Result<u8, Failure> {
    let names = args.snapshots.iter().map(|text| Name::parse(text));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let mut documents = Vec::new();
    for name in names {
        let deleted = delete_one(&name, settings)?;
        documents.push(Deleted {
            snapshot: name.to_string(),
            deleted,
        });
    }
    if settings.output.json {
        settings.output.document(&documents)?;
        return Ok(0);
    }
    for document in documents.iter().filter(|document| document.deleted) {
        settings.output.text(&format!("{}\n", document.snapshot))?;
    }
    Ok(0)
}

fn delete_one(name: &Name, settings: &Settings) -> Result<bool, Failure> {
    let siblings = name.siblings(settings);
    let directory = match siblings.find(&name.tag) {
        Ok(directory) => directory,
        Err(DirError::Absent(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let Some(_lock) = lock(&directory.lock())? else {
        let message = format!("snapshot {name} is being deleted by another command");
        return Err(Failure::new(ErrorKind::Conflict, message));
    };
    let store = Store::open(&settings.store_dir())?;
    creation::delete(&store, directory, &name.workspace)?;
    creation::sweep(&siblings, &store);
    siblings.remove_if_empty();
    Ok(true)
}
