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

use super::{client, client_failure, get, state_of};
use crate::failure::Failure;
use crate::host_files::root_fs_kind;
use crate::settings::Settings;

/// A workspace whose files are read.
#[derive(Debug)]
pub(super) struct Files {
    name: String,
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

impl Files {
    /// Those of the workspace `name`.
    pub(super) fn of(name: &str, settings: &Settings) -> Result<Files, Failure> {
        let directory = get(settings, name)?;
        let spec = directory.spec()?;
        let from = match state_of(&directory)?.0.is_live() {
            true => From::Agent(client(&directory, name)?),
            false => From::Disk(Store::open(&settings.store_dir())?),
        };
        Ok(Files {
            name: name.to_owned(),
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
                let stream = stream.map_err(|error| client_failure(error, &self.name))?;
                let request = ReadTree {
                    path: path.to_vec(),
                    follow,
                };
                return Ok(read_tree(stream, request, sink)?);
            }
        };
        let failed = |error: ViewError| view_failure(&error, &self.name);
        let found = view::at(&self.directory, &self.spec, store, path).map_err(failed)?;
        let last = if follow { Last::Follow } else { Last::Keep };
        let node = found.fs.resolve(&found.path, last);
        let node = node.map_err(|error| failed(error.into()))?.node;
        Ok(found.fs.copy(&node, sink)?)
    }
}

/// The failure of a workspace whose disk cannot be read.
pub(super) fn view_failure(error: &ViewError, name: &str) -> Failure {
    let kind = match error {
        ViewError::RootFs(error) => root_fs_kind(error),
        _ => ErrorKind::Corrupt,
    };
    let failure = Failure::caused(kind, error);
    match error {
        ViewError::RootFs(RootFsError::Dirty) => {
            let message = format!("workspace {name}: {}", failure.message);
            Failure { message, ..failure }.remediation(format!(
                "start it and stop it: microagent start {name} && microagent stop {name}"
            ))
        }
        ViewError::RootFs(RootFsError::InUse(_)) => Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is being started or stopped"),
        ),
        _ => failure,
    }
}

/// The last name of a path of the guest; `None` for the root and for `..`.
pub(super) fn last_name(path: &[u8]) -> Option<&OsStr> {
    Path::new(OsStr::from_bytes(path)).file_name()
}
