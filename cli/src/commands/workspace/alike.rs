//! Workspaces that begin as others are: clones, what was saved, and what is made of that.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use microagent_cas::Store;
use microagent_workspace::creation::{self, Creation, random_id};
use microagent_workspace::dir::NewWorkspace;
use microagent_workspace::event::now;
use microagent_workspace::spec::Spec;
use microagent_workspace::start;
use microagent_workspace::state::State;

use super::{print_state, workspaces};
use crate::disk_copy;
use crate::failure::{Failure, kind_of};
use crate::out_file::OutFile;
use crate::settings::Settings;
use crate::termination::Termination;

/// Makes the workspace `name` of the manifest and the disks of another one, or of a snapshot.
pub(super) fn make_copy(
    name: &str,
    mut spec: Spec,
    deltas: &[PathBuf],
    store: &Store,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let new = creation::begin(&workspaces(settings), store, name)?;
    spec.name = Some(name.to_owned());
    make_alike(new, spec, store, termination, |to| {
        deltas
            .iter()
            .try_for_each(|delta| copy(delta, to, termination))
    })?;
    print_state(settings, name, State::Prepared)
}

/// Makes a directory of the manifest of a workspace, with an identity of its own, in which `fill` puts the
/// rest: another workspace, or what was saved of it.
pub(super) fn make_alike(
    new: NewWorkspace,
    mut spec: Spec,
    store: &Store,
    termination: &Termination,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for path in new.leftovers() {
        termination.remove_on_exit(path);
    }
    let recorded = spec.recorded.as_mut();
    let recorded = recorded.ok_or(start::ManifestError::Missing("recorded"))?;
    recorded.runtime_id = random_id()?;
    recorded.created_at = now();
    let recorded = recorded.clone();
    let mut creation = Creation::new(store, new, spec, recorded);
    let root_file = creation.root_file()?;
    termination.remove_on_exit(&root_file);
    creation.hold()?;
    fill(creation.directory().path())?;
    creation.complete()?;
    termination.keep(&root_file);
    Ok(())
}

/// Copies a file into a directory under its name.
fn copy(file: &Path, to: &Path, termination: &Termination) -> Result<(), Failure> {
    let to = to.join(file.file_name().unwrap_or_default());
    disk_copy::copy(file, OutFile::create(&to, termination)?)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600))
        .map_err(|error| unreadable(&to, &error))
}

/// The file cannot be copied.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        kind_of(error),
        format!("cannot copy {}: {error}", path.display()),
    )
}
