//! `microagent clone`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_proto::control::DiskMode;
use microagent_vmm::virtio::block::lock;
use microagent_workspace::client::ClientError;
use microagent_workspace::creation;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::start;
use microagent_workspace::state::State;

use super::alike::{make_alike, make_copy, unreadable};
use super::starting::{Change, start_again};
use super::{
    client, client_failure, get, lock as lock_of, not_stopped, print_state, state_of, workspaces,
};
use crate::args::CloneArgs;
use crate::failure::Failure;
use crate::request;
use crate::settings::Settings;
use crate::termination::Termination;

/// Makes a workspace with the files of another one; of one that runs also with its memory, and it runs too.
pub fn clone(
    args: &CloneArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let name = request::checked_name(&args.new)?;
    let source = get(settings, &args.name)?;
    match state_of(&source)?.0 {
        State::Running | State::Paused | State::Starting => {
            fork(&args.name, &source, &name, settings, termination)
        }
        state if state.is_live() || state == State::Suspended => {
            Err(not_stopped(state, &args.name))
        }
        _ => of_stopped(&args.name, &source, &name, settings, termination),
    }
}

/// Makes the workspace `name` of one that runs: saved in the directory of the new one, which then goes on.
fn fork(
    from: &str,
    source: &WorkspaceDir,
    name: &str,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let client = client(source, from)?;
    let mut spec = source.spec()?;
    if let Some(network) = &mut spec.network
        && !network.forwards.is_empty()
    {
        network.forwards.clear();
        let publish = format!("microagent network publish {name} HOST:GUEST");
        (settings.output).notice(&format!("the published ports stay with {from}: {publish}"));
    }
    let store = Store::open(&settings.store_dir())?;
    let new = creation::begin(&workspaces(settings), &store, name)?;
    spec.name = Some(name.to_owned());
    make_alike(new, spec, &store, termination, |to| {
        client.snapshot(to).map_err(|error| match error {
            ClientError::Refused {
                message,
                state: None,
            } => Failure::new(
                ErrorKind::Unsupported,
                format!("workspace {from}: {message}"),
            )
            .remediation(format!("stop it first: microagent stop {from}")),
            error => client_failure(error, from),
        })
    })?;
    let directory = get(settings, name)?;
    if let Err(failure) = start_again(&directory, name, &Change::default(), settings) {
        // It would be an empty promise.
        if let Some(_lock) = lock_of(&directory.lock())? {
            creation::delete(&store, directory, name)?;
        }
        return Err(failure);
    }
    print_state(settings, name, State::Running)
}

fn of_stopped(
    from: &str,
    source: &WorkspaceDir,
    name: &str,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let spec = source.spec()?;
    let store = Store::open(&settings.store_dir())?;
    let former = start::recorded(&spec)?;
    let disks = start::disks(source, &spec, former, &store)?;
    // While these are locked, it cannot be started.
    let mut locks = Vec::new();
    let mut deltas: Vec<PathBuf> = Vec::new();
    for (config, _) in disks {
        let DiskMode::Delta { delta, presence } = config.mode else {
            continue;
        };
        let Some(file) = open(&delta)? else {
            continue;
        };
        lock(&file, &delta, false).map_err(|_| not_stopped(State::Running, from))?;
        locks.push(file);
        deltas.push(delta);
        deltas.extend(open(&presence)?.map(|_| presence));
    }
    make_copy(name, spec, &deltas, &store, settings, termination)
}

/// Opens a file that may not exist yet.
fn open(path: &Path) -> Result<Option<File>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}
