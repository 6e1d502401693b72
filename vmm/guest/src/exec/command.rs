//! Starts a process for an exec request.

use std::collections::HashMap;
use std::ffi::{CString, NulError, c_char};
use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use microagent_proto::agent::{Exec, Failure, FailureKind};
use microagent_proto::error_chain;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::children::{ChildHandle, Children};
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
    User(#[from] UserError),
    #[error("cannot use the working directory {path}")]
    WorkingDirectory { path: PathBuf, source: io::Error },
    #[error("{name} was not found in PATH ({path})")]
    NotInPath { name: String, path: String },
    #[error("the image has no {path}")]
    Missing { path: PathBuf },
    #[error("{path} is not executable")]
    NoPermission { path: PathBuf },
    #[error("{path} needs {interpreter}, which the image does not have")]
    NoInterpreter { path: PathBuf, interpreter: String },
    #[error("cannot execute {path}")]
    Refused { path: PathBuf, source: io::Error },
    #[error("cannot start a process")]
    System(#[source] io::Error),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        Failure {
            kind: match error {
                StartError::Empty | StartError::NulByte => FailureKind::BadRequest,
                StartError::User(_) => FailureKind::UnknownUser,
                StartError::NotInPath { .. } | StartError::Missing { .. } => FailureKind::NotFound,
                StartError::NoPermission { .. }
                | StartError::NoInterpreter { .. }
                | StartError::Refused { .. } => FailureKind::NotExecutable,
                StartError::WorkingDirectory { .. } | StartError::System(_) => FailureKind::System,
            },
            message: error_chain(&error),
        }
    }
}

/// A started command, and the agent's ends of its pipes.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: ChildHandle,
    /// Its standard input, unless it is `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// Starts the command.
pub fn start(request: &Exec, children: &Arc<Children>) -> Result<Running, Failure> {
    Ok(try_start(request, children)?)
}

fn try_start(request: &Exec, children: &Arc<Children>) -> Result<Running, StartError> {
    let name = request.argv.first().ok_or(StartError::Empty)?;
    let identity = user::look_up(&request.user)?;
    let cwd = working_directory(&request.cwd)?;
    let path = find(name, variable(&request.env, "PATH"), &cwd.path)?;

    let system = |error: Errno| StartError::System(error.into());
    let (stdout, child_stdout) = pipe_for(&identity).map_err(system)?;
    let (stderr, child_stderr) = pipe_for(&identity).map_err(system)?;
    let mut command = Command::new(&path);
    command
        .stdin(Stdio::null())
        .stdout(child_stdout)
        .stderr(child_stderr);
    let mut stdin = None;
    if request.stdin {
        let (child_stdin, ours) = pipe_for(&identity).map_err(system)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(system)?;
        command.stdin(child_stdin);
        stdin = Some(ours);
    }
    let image = Image::new(&path, &request.argv, &environment(request, &identity))
        .map_err(|_| StartError::NulByte)?;
    execute_as(&mut command, &identity, cwd.fd, image);
    let child = children
        .spawn(&mut command)
        .map_err(|error| explain(error, &cwd.path.join(&path)))?;
    Ok(Running {
        child,
        stdin,
        stdout,
        stderr,
    })
}

/// The environment as `NAME=value`. If a name occurs twice, the last value is used, at the position
/// of the first.
fn environment(request: &Exec, identity: &Identity) -> Vec<String> {
    let mut places = HashMap::new();
    let mut words: Vec<String> = Vec::with_capacity(request.env.len() + 1);
    let home = ("HOME".to_owned(), identity.home.clone());
    let home = variable(&request.env, "HOME").is_none().then_some(&home);
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
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&path)?;
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
            Ok(_) => Err(StartError::NoPermission { path: whole }),
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
        Some(path) => StartError::NoPermission { path },
        None => StartError::NotInPath {
            name: name.to_owned(),
            path: path.to_owned(),
        },
    })
}

fn executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// The arguments of execve(2), allocated before the fork.
///
/// `Command` uses `execvp`, which runs files that the kernel cannot execute, such as programs for
/// other architectures, with `/bin/sh`. Here they must fail instead.
struct Image {
    path: CString,
    argv: CStringArray,
    envp: CStringArray,
}

/// A null-terminated array of C strings: pointers into `_owned`.
struct CStringArray {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: needed because the closure of `pre_exec` must be `Send` and `Sync`, which raw pointers
// are not. These point into heap memory that `_owned` keeps alive and that is never changed.
#[allow(unsafe_code)]
unsafe impl Send for CStringArray {}
// SAFETY: as for `Send`.
#[allow(unsafe_code)]
unsafe impl Sync for CStringArray {}

impl CStringArray {
    fn new(words: &[String]) -> Result<CStringArray, NulError> {
        let owned: Vec<CString> = words
            .iter()
            .map(|word| CString::new(word.as_str()))
            .collect::<Result<_, _>>()?;
        let pointers = owned.iter().map(|word| word.as_ptr());
        Ok(CStringArray {
            pointers: pointers.chain([std::ptr::null()]).collect(),
            _owned: owned,
        })
    }
}

impl Image {
    fn new(path: &Path, argv: &[String], envp: &[String]) -> Result<Image, NulError> {
        Ok(Image {
            path: CString::new(path.as_os_str().as_bytes())?,
            argv: CStringArray::new(argv)?,
            envp: CStringArray::new(envp)?,
        })
    }

    /// Replaces this process. Returns only on failure.
    fn execute(&self) -> io::Error {
        // SAFETY: needed because none of the dependencies wraps execve without allocating. The
        // arguments are a C string and null-terminated arrays of C strings, which `self` keeps
        // alive.
        #[allow(unsafe_code)]
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.argv.pointers.as_ptr(),
                self.envp.pointers.as_ptr(),
            )
        };
        io::Error::last_os_error()
    }
}

/// Makes the child a session leader in the working directory with the user's ids, and executes
/// `image` instead of the program of `command`.
fn execute_as(command: &mut Command, identity: &Identity, cwd: OwnedFd, image: Image) {
    let uid = Uid::from_raw(identity.uid);
    let gid = Gid::from_raw(identity.gid);
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let in_child = move || {
        rustix::process::setsid()?;
        rustix::process::fchdir(&cwd)?;
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Err(image.execute())
    };
    // SAFETY: needed because `Command` supports neither supplementary groups nor a new session. The
    // closure runs between fork and exec of a multi-threaded process, so it must be
    // async-signal-safe: it makes system calls with existing values, allocates nothing and takes no
    // lock. The child has one thread, so per-thread ids are its ids.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Maps the error of executing `path`, which exists.
fn explain(error: io::Error, path: &Path) -> StartError {
    let path = path.to_owned();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::NOSYS) | None => {
            StartError::System(error)
        }
        Some(Errno::ACCESS) => StartError::NoPermission { path },
        Some(Errno::NOENT) => StartError::NoInterpreter {
            interpreter: script_interpreter(&path).unwrap_or_else(|| "a dynamic loader".to_owned()),
            path,
        },
        Some(_) => StartError::Refused {
            path,
            source: error,
        },
    }
}

/// The interpreter that the first line of a script names.
fn script_interpreter(path: &Path) -> Option<String> {
    /// The number of bytes that the kernel reads of a script (`BINPRM_BUF_SIZE`).
    const FIRST_LINE: u64 = 256;
    let mut start = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FIRST_LINE).read_to_end(&mut start).ok()?;
    let text = String::from_utf8_lossy(start.strip_prefix(b"#!")?).into_owned();
    let word = text.lines().next()?.split_whitespace().next()?;
    Some(word.to_owned())
}
