//! `microagent snapshot`, and workspaces that go on from one.

use std::fmt;
use std::path::PathBuf;

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::creation;
use microagent_workspace::dir::{DirError, WorkspaceDir, Workspaces, is_name};
use microagent_workspace::saved::{self, Facts, Saved};
use microagent_workspace::spec::Spec;
use microagent_workspace::start::recorded;
use serde::Serialize;

use super::clone::make_alike;
use super::{client, client_failure, get, lock};
use crate::args::{SnapshotArgs, SnapshotCommand, SnapshotDeleteArgs, SnapshotListArgs};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

/// The tag of a snapshot that is named after its workspace alone.
const DEFAULT_TAG: &str = "latest";

/// The name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    workspace: String,
    tag: String,
}

impl Name {
    /// `NAME[:TAG]`.
    fn parse(text: &str) -> Result<Name, Failure> {
        let (workspace, tag) = text.split_once(':').unwrap_or((text, DEFAULT_TAG));
        match is_name(workspace) && is_name(tag) {
            true => Ok(Name {
                workspace: workspace.to_owned(),
                tag: tag.to_owned(),
            }),
            false => Err(
                Failure::usage(format!("{text:?} is not the name of a snapshot")).remediation(
                    "use NAME or NAME:TAG, each of 1 to 63 lowercase letters, digits and hyphens",
                ),
            ),
        }
    }

    /// The snapshots of the workspace of this name.
    fn siblings(&self, settings: &Settings) -> Workspaces {
        Workspaces::snapshots(&settings.state_dir, &self.workspace)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.workspace, self.tag)
    }
}

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    name: Name,
    directory: WorkspaceDir,
    pub(super) facts: Facts,
    pub(super) spec: Spec,
}

impl Snapshot {
    /// The snapshot `NAME[:TAG]`.
    pub(super) fn find(settings: &Settings, text: &str) -> Result<Snapshot, Failure> {
        let name = Name::parse(text)?;
        let directory = match name.siblings(settings).get(&name.tag) {
            Err(DirError::Absent(_)) => {
                let message = format!("there is no snapshot {name}");
                return Err(Failure::new(ErrorKind::NotFound, message)
                    .remediation("list them: microagent snapshot ls"));
            }
            found => found?,
        };
        let facts = Saved::at(directory.path().to_owned()).facts();
        let facts = facts.map_err(|error| {
            Failure::new(
                kind_of(&error),
                format!("snapshot {name} cannot be read: {error}"),
            )
        })?;
        let spec = directory.spec()?;
        Ok(Snapshot {
            name,
            directory,
            facts,
            spec,
        })
    }

    /// Its directory.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// What a workspace that begins with it copies.
    pub(super) fn disks(&self) -> Result<Vec<PathBuf>, Failure> {
        let disks = Saved::at(self.path()).disks();
        disks.map_err(|error| self.failed("read", &error))
    }

    /// Gives the workspace `name` in `directory`, which is locked, the disks of the snapshot.
    pub(super) fn replace_disks(
        &self,
        directory: &WorkspaceDir,
        name: &str,
        spec: &Spec,
    ) -> Result<(), Failure> {
        if !saved::have_the_same_disks(recorded(spec)?, recorded(&self.spec)?) {
            let message = format!("snapshot {} is of a workspace with other disks", self.name);
            return Err(
                Failure::new(ErrorKind::Conflict, message).remediation(format!(
                    "make a workspace of it: microagent create NAME --from-snapshot {}",
                    self.name
                )),
            );
        }
        let saved = Saved::at(self.path());
        if !saved.is_unchanged(&self.facts) {
            let message = format!("snapshot {} was changed since it was taken", self.name);
            return Err(
                Failure::new(ErrorKind::Corrupt, message).remediation(format!(
                    "delete it: microagent snapshot delete {}",
                    self.name
                )),
            );
        }
        saved
            .replace_disks(directory)
            .map_err(|error| self.failed(&format!("restore workspace {name} from"), &error))
    }

    fn failed(&self, verb: &str, error: &std::io::Error) -> Failure {
        let message = format!("cannot {verb} snapshot {}: {error}", self.name);
        Failure::new(kind_of(error), message)
    }
}

/// Refuses a workspace whose disks do not belong together.
pub(super) fn check_whole(directory: &WorkspaceDir, name: &str) -> Result<(), Failure> {
    match saved::are_whole(directory) {
        true => Ok(()),
        false => Err(Failure::new(
            ErrorKind::Corrupt,
            format!("the disks of workspace {name} were being replaced by those of a snapshot"),
        )
        .remediation(format!(
            "repeat it: microagent start {name} --from-snapshot NAME:TAG"
        ))),
    }
}

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
        (client.snapshot(to)).map_err(|error| client_failure(error, &name.workspace))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_tag() {
        let parse = |text: &str| Name::parse(text).map(|name| name.to_string());
        assert_eq!(parse("a").unwrap(), "a:latest");
        assert_eq!(parse("a-1:b2").unwrap(), "a-1:b2");
        for wrong in ["", ":", "a:", ":b", "a:b:c", "../a", "a:../b", "A", "a/b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
