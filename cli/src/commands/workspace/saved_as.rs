//! Snapshots by their names, and workspaces that go on from one.

use std::fmt;
use std::path::PathBuf;

use microagent_pipeline::ErrorKind;
use microagent_workspace::dir::{DirError, WorkspaceDir, Workspaces, is_name};
use microagent_workspace::saved::{self, Facts, Saved};
use microagent_workspace::spec::Spec;
use microagent_workspace::start::recorded;

use crate::failure::{Failure, kind_of};
use crate::settings::Settings;

/// The tag of a snapshot that is named after its workspace alone.
const DEFAULT_TAG: &str = "latest";

/// The name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) workspace: String,
    pub(super) tag: String,
}

impl Name {
    /// `NAME[:TAG]`.
    pub(super) fn parse(text: &str) -> Result<Name, Failure> {
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
    pub(super) fn siblings(&self, settings: &Settings) -> Workspaces {
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
    pub(super) name: Name,
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

    pub(super) fn failed(&self, verb: &str, error: &std::io::Error) -> Failure {
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
