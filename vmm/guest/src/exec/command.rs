//! Starts a process for an exec request.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use microagent_proto::agent::{Exec, Failure, FailureKind, Output, Place};
use microagent_proto::error_chain;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::children::ChildHandle;
use crate::directory;
use crate::exec::Guest;
use crate::exec::refusal::{Refusal, executable, explain};
use crate::exec::terminal::Terminal;
use crate::namespaces::{NamespaceError, WorkloadSlot};
use crate::spawn::{self, CStringArray, Executable, Program, SpawnError};
use crate::user::{self, Identity, UserError};

/// The search path for commands without `PATH` in their environment.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("the command is empty")]
    Empty,
    #[error("the command or its environment contains a NUL byte")]
    NulByte,
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot use the working directory {path}")]
    WorkingDirectory { path: PathBuf, source: io::Error },
    #[error("{name} was not found in PATH ({path})")]
    NotInPath { name: String, path: String },
    #[error("the image has no {path}")]
    Missing { path: PathBuf },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot open a terminal for the command")]
    Terminal(#[source] io::Error),
    #[error("cannot make a cgroup for the command")]
    Cgroup(#[source] io::Error),
    #[error("the command and its environment are longer than the guest's kernel allows")]
    TooLong,
    #[error(transparent)]
    Spawn(SpawnError),
    #[error("cannot start a process")]
    System(#[source] io::Error),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        Failure {
            kind: match error {
                StartError::Empty
                | StartError::NulByte
                | StartError::Namespace(
                    NamespaceError::WorkloadRuns | NamespaceError::WorkloadStarts,
                ) => FailureKind::BadRequest,
                StartError::User(_) => FailureKind::UnknownUser,
                StartError::NotInPath { .. } | StartError::Missing { .. } => FailureKind::NotFound,
                StartError::Refused(_) | StartError::TooLong => FailureKind::NotExecutable,
                StartError::Namespace(_)
                | StartError::WorkingDirectory { .. }
                | StartError::Terminal(_)
                | StartError::Cgroup(_)
                | StartError::Spawn(_)
                | StartError::System(_) => FailureKind::System,
            },
            message: error_chain(&error),
        }
    }
}

/// A started command.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: ChildHandle,
    /// The place of the workload, if the command is that.
    pub slot: Option<WorkloadSlot>,
    /// The agent's ends of its standard streams.
    pub ends: Ends,
}

/// The agent's ends of a command's standard streams. They never block: what poll(2) reports may be
/// gone again.
#[derive(Debug, Default)]
pub struct Ends {
    /// Its standard input, unless that is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, or its terminal.
    pub stdout: Option<OwnedFd>,
    /// Its standard error, unless that is the same as standard output.
    pub stderr: Option<OwnedFd>,
    /// Its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

/// Starts the command. Moves the calling thread to the command's namespaces, so that names are
/// looked up where the command is.
pub fn start(request: &Exec, guest: &Guest<'_>) -> Result<Running, Failure> {
    Ok(try_start(request, guest)?)
}

fn try_start(request: &Exec, guest: &Guest<'_>) -> Result<Running, StartError> {
    let name = request.argv.first().ok_or(StartError::Empty)?;
    let slot = match request.place {
        Place::Workload => Some(guest.namespaces.enter_for_workload()?),
        Place::Beside => {
            guest.namespaces.enter()?;
            None
        }
    };
    let identity = user::look_up(&request.user)?;
    let cwd = working_directory(&request.cwd)?;
    let path = find(name, variable(&request.env, "PATH"), &cwd.path)?;
    let (ends, stdio) = standard_streams(request, &identity)?;
    let cgroup = match guest.cgroups {
        Some(cgroups) => Some(cgroups.create().map_err(StartError::Cgroup)?),
        None => None,
    };
    let nul = |_| StartError::NulByte;
    let program = Program {
        file: Executable::Path(CString::new(path.as_os_str().as_bytes()).map_err(nul)?),
        argv: CStringArray::new(&request.argv).map_err(nul)?,
        envp: CStringArray::new(&environment(request, &identity)).map_err(nul)?,
        stdio,
        cwd: cwd.fd,
        user: (&identity).into(),
        mount_proc: slot.is_some(),
        terminal: ends.terminal.is_some(),
        oom_victim: Some(guest.proc.try_clone().map_err(StartError::System)?),
    };
    let spawned = guest.children.spawn(&program, cgroup);
    let child = spawned.map_err(|error| match error {
        SpawnError::Execute(error) => refused(error, &cwd.path.join(&path), &cwd.path),
        error => StartError::Spawn(error),
    })?;
    if let Some(slot) = &slot {
        slot.started(&child).map_err(StartError::System)?;
    }
    Ok(Running { child, slot, ends })
}

/// The agent's and the command's ends of its standard streams.
fn standard_streams(
    request: &Exec,
    identity: &Identity,
) -> Result<(Ends, [OwnedFd; 3]), StartError> {
    let same = |fd: &OwnedFd| fd.try_clone().map_err(StartError::System);
    let null = || spawn::null().map_err(StartError::System);
    if let Output::Terminal(size) = request.output {
        let Terminal { master, slave } =
            Terminal::open(size, identity).map_err(StartError::Terminal)?;
        let ends = Ends {
            stdin: (request.stdin).then(|| same(&master)).transpose()?,
            stdout: Some(same(&master)?),
            stderr: None,
            terminal: Some(master),
        };
        return Ok((ends, [same(&slave)?, same(&slave)?, slave]));
    }
    let mut ends = Ends::default();
    // The reader's end, then the writer's.
    let pipe = || pipe_for(identity).map_err(|error| StartError::System(error.into()));
    let not_blocking = |end: OwnedFd| match rustix::io::ioctl_fionbio(&end, true) {
        Ok(()) => Ok(Some(end)),
        Err(error) => Err(StartError::System(error.into())),
    };
    let stdin = match request.stdin {
        true => {
            let (reader, writer) = pipe()?;
            ends.stdin = not_blocking(writer)?;
            reader
        }
        false => null()?,
    };
    if request.output == Output::Discard {
        return Ok((ends, [stdin, null()?, null()?]));
    }
    let (reader, stdout) = pipe()?;
    ends.stdout = not_blocking(reader)?;
    let stderr = match request.output {
        Output::Merged => same(&stdout)?,
        _ => {
            let (reader, stderr) = pipe()?;
            ends.stderr = not_blocking(reader)?;
            stderr
        }
    };
    Ok((ends, [stdin, stdout, stderr]))
}

/// The error for a program that the kernel did not execute.
fn refused(error: io::Error, path: &Path, cwd: &Path) -> StartError {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSYS) | None => {
            StartError::System(error)
        }
        Some(Errno::TOOBIG) => StartError::TooLong,
        Some(_) => explain(error, path, cwd).into(),
    }
}

/// The environment as `NAME=value`. If a name occurs twice, the last value is used, at the position
/// of the first.
fn environment(request: &Exec, identity: &Identity) -> Vec<String> {
    let mut places = HashMap::new();
    let mut words: Vec<String> = Vec::with_capacity(request.env.len() + 1);
    let home = ("HOME".to_owned(), identity.home.clone());
    let given = variable(&request.env, "HOME").is_some_and(|home| !home.is_empty());
    let home = (!given).then_some(&home);
    for (name, value) in request.env.iter().chain(home) {
        let word = format!("{name}={value}");
        match places.get(name) {
            Some(&place) => words[place] = word,
            None => {
                places.insert(name, words.len());
                words.push(word);
            }
        }
    }
    words
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = env.iter().rev().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

struct WorkingDirectory {
    path: PathBuf,
    fd: OwnedFd,
}

/// Opens the working directory, and creates it if it is missing.
fn working_directory(cwd: &str) -> Result<WorkingDirectory, StartError> {
    let path = Path::new("/").join(cwd);
    let open = || -> io::Result<OwnedFd> {
        directory::create(&path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&path, flags, Mode::empty())?)
    };
    match open() {
        Ok(fd) => Ok(WorkingDirectory { path, fd }),
        Err(source) => Err(StartError::WorkingDirectory { path, source }),
    }
}

/// Creates a pipe that the command's user owns, so that the command can open it by name
/// (`/dev/stdout`).
fn pipe_for(identity: &Identity) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(&writer, Some(uid), Some(gid))?;
    Ok((reader, writer))
}

/// The path of the program that a shell would execute. Relative paths are relative to the working
/// directory.
fn find(name: &str, path: Option<&str>, cwd: &Path) -> Result<PathBuf, StartError> {
    if name.contains('/') {
        let whole = cwd.join(name);
        return match std::fs::metadata(&whole) {
            Ok(metadata) if executable(&metadata) => Ok(name.into()),
            Ok(metadata) if metadata.is_dir() => Err(Refusal::Directory(whole).into()),
            Ok(_) => Err(Refusal::NoPermission(whole).into()),
            Err(_) => Err(StartError::Missing { path: whole }),
        };
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    let mut without_permission = None;
    for directory in path.split(':') {
        // An empty element is the working directory.
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match std::fs::metadata(cwd.join(&candidate)) {
            Ok(metadata) if executable(&metadata) => return Ok(candidate),
            Ok(metadata) if metadata.is_file() => {
                without_permission.get_or_insert(candidate);
            }
            _ => {}
        }
    }
    Err(match without_permission {
        Some(path) => Refusal::NoPermission(path).into(),
        None => StartError::NotInPath {
            name: name.to_owned(),
            path: path.to_owned(),
        },
    })
}
