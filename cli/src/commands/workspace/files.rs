//! The files of a workspace: of one that runs through its agent, otherwise from its disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_proto::agent::AGENT_PORT;
use microagent_proto::tree::ReadTree;
use microagent_tree::Sink;
use microagent_workspace::client::Client;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::machine::files::read_tree;
use microagent_workspace::root_fs::{Last, RootFsError};
use microagent_workspace::spec::Spec;
use microagent_workspace::view::{self, ViewError};

use super::{client_failure, get, short_boot};
use crate::failure::Failure;
use crate::host_files::root_fs_kind;
use crate::settings::Settings;
use crate::termination::Termination;

/// A workspace whose files are read.
#[derive(Debug)]
pub(super) struct Files<'a> {
    name: &'a str,
    settings: &'a Settings,
    termination: &'a Termination,
    directory: WorkspaceDir,
    /// What it is.
    pub(super) spec: Spec,
    from: From,
}

#[derive(Debug)]
enum From {
    Agent(Client),
    Disk(Store),
}

impl<'a> Files<'a> {
    /// Those of the workspace `name`.
    pub(super) fn of(
        name: &'a str,
        settings: &'a Settings,
        termination: &'a Termination,
    ) -> Result<Files<'a>, Failure> {
        let directory = get(settings, name)?;
        let spec = directory.known_spec()?;
        let from = match short_boot::living(&directory, name, settings)? {
            Some(client) => From::Agent(client),
            None => From::Disk(Store::open(&settings.store_dir())?),
        };
        Ok(Files {
            name,
            settings,
            termination,
            directory,
            spec,
            from,
        })
    }

    /// Passes the tree at `path` to `sink`; with `follow`, what a symbolic link there points to.
    pub(super) fn read(
        &self,
        path: &[u8],
        follow: bool,
        sink: &mut dyn Sink,
    ) -> Result<(), Failure> {
        let store = match &self.from {
            From::Disk(store) => store,
            From::Agent(client) => {
                let stream = client.connect(AGENT_PORT);
                let stream = stream.map_err(|error| client_failure(error, self.name))?;
                let request = ReadTree {
                    path: path.to_vec(),
                    follow,
                };
                return Ok(read_tree(stream, request, sink)?);
            }
        };
        let found = on_disk(
            &self.directory,
            self.name,
            self.settings,
            self.termination,
            || view::at(&self.directory, &self.spec, store, path),
        )?;
        let last = if follow { Last::Follow } else { Last::Keep };
        let node = found.fs.resolve(&found.path, last);
        let node = node
            .map_err(|error| view_failure(&error.into(), self.name))?
            .node;
        Ok(found.fs.copy(&node, sink)?)
    }
}

/// Opens the disk of a workspace that does not run with `open`. If its file system was not unmounted,
/// its journal is replayed first.
pub(super) fn on_disk<T>(
    directory: &WorkspaceDir,
    name: &str,
    settings: &Settings,
    termination: &Termination,
    open: impl Fn() -> Result<T, ViewError>,
) -> Result<T, Failure> {
    let opened = match open() {
        Err(ViewError::RootFs(RootFsError::Dirty)) => {
            short_boot::replay(directory, name, settings, termination)?;
            open()
        }
        opened => opened,
    };
    opened.map_err(|error| view_failure(&error, name))
}

/// The failure of a workspace whose disk cannot be read.
pub(super) fn view_failure(error: &ViewError, name: &str) -> Failure {
    match error {
        ViewError::RootFs(RootFsError::InUse(_)) => Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is being started or stopped"),
        ),
        ViewError::RootFs(error) => Failure::caused(root_fs_kind(error), error),
        error => Failure::caused(ErrorKind::Corrupt, error),
    }
}

/// The last name of a path of the guest; `None` for the root and for `..`.
pub(super) fn last_name(path: &[u8]) -> Option<&OsStr> {
    Path::new(OsStr::from_bytes(path)).file_name()
}
