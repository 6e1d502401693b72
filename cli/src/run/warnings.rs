//! Warnings of a VM's supervisor: as notices, in the document, and as the failure of a run whose
//! disks lost data.

use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use microagent_proto::control::{DiskConfig, DiskMode};
use microagent_proto::warning::{DiskFailure, DiskOperation, Warning};
use microagent_workspace::shell;
use rustix::io::Errno;

use super::disks::AttachedDisk;
use super::document::WarningDocument;
use crate::failure::Failure;
use crate::output::Output;

/// The warnings of a run, with the names of its disks.
#[derive(Debug)]
pub struct RunWarnings {
    warnings: Vec<Warning>,
    disks: Vec<Disk>,
}

/// A disk as the user knows it.
#[derive(Debug)]
struct Disk {
    name: String,
    config: DiskConfig,
}

impl Disk {
    /// The file or directory that a failed operation concerns, and the subject of a message about
    /// it.
    fn place(&self, operation: DiskOperation) -> (&Path, String) {
        match &self.config.mode {
            DiskMode::Overlay { scratch_dir } if operation != DiskOperation::Read => (
                scratch_dir,
                format!(
                    "disk {} (scratch space in {})",
                    self.name,
                    scratch_dir.display()
                ),
            ),
            DiskMode::Delta { delta, .. } if operation != DiskOperation::Read => {
                // The name of its directory is one for the time of the run.
                let directory = delta.ancestors().nth(2).unwrap_or(delta);
                let subject = format!(
                    "disk {} (of a workspace in {})",
                    self.name,
                    directory.display()
                );
                (directory, subject)
            }
            _ => {
                let path = &self.config.path;
                (path, format!("disk {} ({})", self.name, path.display()))
            }
        }
    }
}

impl RunWarnings {
    /// The `warnings` of a VM with these disks.
    pub fn new(warnings: Vec<Warning>, root: DiskConfig, attached: &[AttachedDisk]) -> RunWarnings {
        let root = Disk {
            name: "root".to_owned(),
            config: root,
        };
        let attached = attached.iter().map(|disk| Disk {
            name: disk.mount.name.clone(),
            config: disk.config.clone(),
        });
        RunWarnings {
            warnings,
            disks: std::iter::once(root).chain(attached).collect(),
        }
    }

    /// The failure of a run in which the guest's data did not reach a disk.
    pub fn data_loss(&self) -> Option<Failure> {
        let failure = self
            .failures()
            .find(|failure| failure.operation.loses_data())?;
        let disk = self.disks.get(failure.index)?;
        let (place, _) = disk.place(failure.operation);
        let full = is_full(failure);
        let kind = match full {
            true => ErrorKind::NoSpace,
            false => ErrorKind::Host,
        };
        let kept = disk.config.mode == DiskMode::ReadWrite;
        let (shown, word) = (place.display(), shell::word(place));
        let remediation = match (full, kept) {
            (true, true) => Some(format!(
                "free space in the file system of {shown}, then check the disk: e2fsck -fp {word}"
            )),
            (true, false) => Some(format!("free space in the file system of {shown}")),
            (false, true) => Some(format!("check the disk: e2fsck -fp {word}")),
            (false, false) => None,
        };
        Some(Failure::new(kind, describe(disk, failure)).maybe_remediation(remediation))
    }

    /// Prints the warnings as notices, except the one that is printed as `failure`.
    pub fn print(&self, output: Output, failure: Option<&Failure>) {
        let mut printed = Vec::new();
        for warning in &self.warnings {
            // A disk that lost a write also fails to flush.
            if let Warning::Disk(failure) = warning
                && failure.operation.loses_data()
            {
                if printed.contains(&failure.index) {
                    continue;
                }
                printed.push(failure.index);
            }
            let message = self.message(warning);
            if failure.is_none_or(|failure| failure.message != message) {
                output.notice(&message);
            }
        }
    }

    /// For the document of the run.
    pub fn document(&self) -> Vec<WarningDocument> {
        let of = |warning: &Warning| {
            let message = self.message(warning);
            let Warning::Disk(failure) = warning else {
                return WarningDocument {
                    message,
                    ..WarningDocument::default()
                };
            };
            let disk = self.disks.get(failure.index);
            WarningDocument {
                message,
                disk: disk.map(|disk| disk.name.clone()),
                path: disk.map(|disk| PathBuf::from(disk.place(failure.operation).0)),
                operation: Some(failure.operation),
                error: Some(failure.error.clone()),
                data_lost: Some(failure.operation.loses_data()),
            }
        };
        self.warnings.iter().map(of).collect()
    }

    fn message(&self, warning: &Warning) -> String {
        match warning {
            Warning::Log(message) => format!("monitor: {message}"),
            Warning::Disk(failure) => match self.disks.get(failure.index) {
                Some(disk) => describe(disk, failure),
                None => format!("disk {}: {}", failure.index, failure.error),
            },
        }
    }

    fn failures(&self) -> impl Iterator<Item = &DiskFailure> {
        self.warnings.iter().filter_map(|warning| match warning {
            Warning::Disk(failure) => Some(failure),
            Warning::Log(_) => None,
        })
    }
}

fn describe(disk: &Disk, failure: &DiskFailure) -> String {
    let (_, subject) = disk.place(failure.operation);
    let what = match failure.operation {
        DiskOperation::Write | DiskOperation::Flush => "data that the guest wrote is lost",
        DiskOperation::Read => "the guest cannot read all of it",
        DiskOperation::Discard => "blocks that the guest discarded are not freed",
    };
    format!("{subject}: {what}: {}", failure.error)
}

fn is_full(failure: &DiskFailure) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].map(Errno::raw_os_error);
    failure.errno.is_some_and(|errno| full.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(index: usize, operation: DiskOperation, errno: i32) -> Warning {
        Warning::Disk(DiskFailure {
            index,
            operation,
            errno: Some(errno),
            error: std::io::Error::from_raw_os_error(errno).to_string(),
        })
    }

    fn run(warnings: &[Warning], mode: DiskMode) -> RunWarnings {
        let root = DiskConfig {
            path: "/cas/root".into(),
            mode,
        };
        RunWarnings::new(warnings.to_vec(), root, &[])
    }

    fn overlay() -> DiskMode {
        DiskMode::Overlay {
            scratch_dir: "/scratch".into(),
        }
    }

    #[test]
    fn a_full_file_system_is_named_with_its_remediation() {
        let warnings = [
            failure(0, DiskOperation::Discard, 28),
            failure(0, DiskOperation::Write, 28),
            failure(0, DiskOperation::Flush, 5),
        ];
        let kept = run(&warnings, DiskMode::ReadWrite).data_loss().unwrap();
        assert_eq!(kept.kind, ErrorKind::NoSpace);
        assert_eq!(
            kept.message,
            "disk root (/cas/root): data that the guest wrote is lost: \
             No space left on device (os error 28)"
        );
        assert_eq!(
            kept.remediation.unwrap(),
            "free space in the file system of /cas/root, then check the disk: e2fsck -fp /cas/root"
        );
        let scratch = run(&warnings, overlay()).data_loss().unwrap();
        assert_eq!(
            scratch.message,
            "disk root (scratch space in /scratch): data that the guest wrote is lost: \
             No space left on device (os error 28)"
        );
        assert_eq!(
            scratch.remediation.unwrap(),
            "free space in the file system of /scratch"
        );
    }

    #[test]
    fn other_errors_lose_data_only_if_the_guest_wrote() {
        let read = [
            failure(0, DiskOperation::Read, 5),
            failure(0, DiskOperation::Discard, 5),
            Warning::Log("x".into()),
        ];
        assert_eq!(run(&read, overlay()).data_loss(), None);
        let flush = [failure(0, DiskOperation::Flush, 5)];
        let flush = run(&flush, DiskMode::ReadWrite).data_loss().unwrap();
        assert_eq!(flush.kind, ErrorKind::Host);
        assert_eq!(
            flush.remediation.unwrap(),
            "check the disk: e2fsck -fp /cas/root"
        );
    }

    #[test]
    fn the_document_has_every_warning() {
        let warnings = [
            failure(0, DiskOperation::Read, 5),
            failure(0, DiskOperation::Write, 28),
            Warning::Log("odd".into()),
        ];
        let document = serde_json::to_value(run(&warnings, overlay()).document()).unwrap();
        let expected = serde_json::json!([
            {
                "message": "disk root (/cas/root): the guest cannot read all of it: \
                            Input/output error (os error 5)",
                "disk": "root", "path": "/cas/root", "operation": "read",
                "error": "Input/output error (os error 5)", "dataLost": false,
            },
            {
                "message": "disk root (scratch space in /scratch): data that the guest wrote is \
                            lost: No space left on device (os error 28)",
                "disk": "root", "path": "/scratch", "operation": "write",
                "error": "No space left on device (os error 28)", "dataLost": true,
            },
            { "message": "monitor: odd" },
        ]);
        assert_eq!(document, expected);
    }
}
