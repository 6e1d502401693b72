//! Files that are copied out of a guest, and into one. Owners are kept if this process is root.
//! Set-user-ID bits, device files and extended attributes outside `user.` never reach the host: a
//! guest must not give itself rights there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use microagent_pipeline::ErrorKind;
use microagent_tree::{Delivery, Options, Policy, Shown, Sink, Skipped, TreeError};
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::files::FilesError;
use microagent_workspace::root_fs::RootFsError;
use microagent_workspace::spec::OutputPath;
use microagent_workspace::summary::{Both, Summary};
use rustix::fs::{Mode, OFlags};

use crate::document::OutputDocument;
use crate::failure::{Failure, kind_of};
use crate::output::Output;
use crate::termination::Termination;

/// Prepares the delivery of a tree to `path`; in a directory it is called `name`. What is not
/// completed is removed, also if this process is terminated.
///
/// # Errors
/// When the path cannot be written.
pub fn deliver(
    path: &Path,
    name: &OsStr,
    contents: bool,
    termination: &Termination,
) -> Result<Delivery, Failure> {
    let options = Options {
        name,
        contents,
        keep_directories: false,
        policy: Policy {
            owners: rustix::process::geteuid().is_root(),
            privileges: false,
        },
    };
    let delivery = Delivery::new(path, &options, open)?;
    let directory = match delivery.goes_into_directory() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    };
    termination.remove_on_exit(&directory.join(delivery.hidden_name()));
    Ok(delivery)
}

/// Copies a declared output of a guest to `to`, with `read`, which passes its tree to the sink.
pub fn copy_output(
    declared: &OutputPath,
    to: &Path,
    output: Output,
    termination: &Termination,
    read: impl FnOnce(&mut dyn Sink) -> Result<(), Failure>,
) -> Result<OutputDocument, Failure> {
    let mut summary = Summary::default();
    let mut delivery = deliver(to, OsStr::new(&declared.name), false, termination)?;
    read(&mut Both(&mut delivery, &mut summary))?;
    report(&delivery.finish()?, output);
    Ok(OutputDocument::new(declared, &summary.finish(), to))
}

/// Opens a path of the host.
pub fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Says which files were left out.
pub fn report(skipped: &Skipped, output: Output) {
    if skipped.count == 0 {
        return;
    }
    let names: Vec<_> = (skipped.first.iter())
        .map(|path| Shown::from(&path[..]).to_string())
        .collect();
    let more = if skipped.count > names.len() as u64 {
        ", …"
    } else {
        ""
    };
    let names = names.join(", ");
    output.notice(&format!(
        "{} device files and sockets were not copied: {names}{more}",
        skipped.count
    ));
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Failure {
        let kind = match &error {
            TreeError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            TreeError::Io { source, .. } => kind_of(source),
            TreeError::Other(other) => match other.downcast_ref::<RootFsError>() {
                Some(error) => root_fs_kind(error),
                None => ErrorKind::Host,
            },
            TreeError::Conflict { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Guest,
        };
        Failure::caused(kind, &error)
    }
}

/// The kind of an error of a workspace's file system.
pub fn root_fs_kind(error: &RootFsError) -> ErrorKind {
    match error {
        RootFsError::NotFound(_) | RootFsError::NotADirectory(_) | RootFsError::Loop(_) => {
            ErrorKind::NotFound
        }
        RootFsError::Dirty | RootFsError::InUse(_) => ErrorKind::Conflict,
        RootFsError::Unsupported(_) => ErrorKind::Unsupported,
        RootFsError::File { source, .. } | RootFsError::Disk(source) => kind_of(source),
        _ => ErrorKind::Corrupt,
    }
}

impl From<FilesError> for Failure {
    fn from(error: FilesError) -> Failure {
        match error {
            FilesError::Tree(error) => error.into(),
            FilesError::Session(error) => session_failure(error),
            error => Failure::caused(ErrorKind::Internal, &error),
        }
    }
}

fn session_failure(error: microagent_workspace::machine::session::SessionError) -> Failure {
    use microagent_workspace::machine::session::SessionError;
    match error {
        SessionError::Refused(failure) => MachineError::Refused(failure).into(),
        error => MachineError::Session(error).into(),
    }
}
