//! Starts a process.
//!
//! Not with `std::process::Command`: between its fork and its exec a child has a copy of every
//! descriptor of the agent. While one child is stuck there, for example because the program is on a
//! file system that does not answer, `Command` waits in every other session for the error pipe that
//! the child holds, and their commands' output does not end. Here the child closes everything that
//! is not its own before it opens the program.

use std::ffi::{CString, NulError, c_char, c_int};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions, getrlimit, setrlimit, waitid};

use crate::cgroup::Cgroup;
use crate::oom;
use crate::user::Identity;

/// The soft limit on open files for commands, which is safe for programs that use `select`. Others
/// can raise it to the hard limit, which is the agent's.
const OPEN_FILES: u64 = 1024;

/// The options of `/proc` and other file systems of the kernel that hold no programs.
pub const KERNEL_MOUNT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// A process to start. Everything is allocated before the fork.
#[derive(Debug)]
pub struct Program {
    /// The executable.
    pub file: Executable,
    /// Its arguments.
    pub argv: CStringArray,
    /// Its environment.
    pub envp: CStringArray,
    /// Its standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Its working directory.
    pub cwd: OwnedFd,
    /// Its user.
    pub user: User,
    /// The process is the first one of the calling thread's new PID namespace: it mounts the
    /// namespace's `/proc` first.
    pub mount_proc: bool,
    /// Its standard input is a terminal, which becomes the controlling terminal of its session.
    pub terminal: bool,
    /// The agent's `/proc`, if the process is to be killed when memory is exhausted, unlike the
    /// agent ([`crate::oom`]).
    pub oom_victim: Option<OwnedFd>,
}

/// What is executed.
#[derive(Debug)]
pub enum Executable {
    /// A path, relative to the working directory.
    Path(CString),
    /// An open file.
    File(OwnedFd),
}

/// The ids of a process.
#[derive(Debug)]
pub struct User {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl From<&Identity> for User {
    fn from(identity: &Identity) -> User {
        User {
            uid: Uid::from_raw(identity.uid),
            gid: Gid::from_raw(identity.gid),
            groups: identity.groups.iter().copied().map(Gid::from_raw).collect(),
        }
    }
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no process: no memory, descriptor or process id.
    #[error("cannot start a process")]
    System(#[source] io::Error),
    /// The process could not be set up.
    #[error("cannot {step}")]
    Setup {
        /// What failed.
        step: &'static str,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("cannot execute the program")]
    Execute(#[source] io::Error),
}

/// A null-terminated array of C strings: pointers into `_owned`.
#[derive(Debug)]
pub struct CStringArray {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStringArray {
    /// The array of `words`.
    pub fn new(words: &[String]) -> Result<CStringArray, NulError> {
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

/// The steps of a child, in order. Their numbers are sent over the error pipe.
const STEPS: [&str; 7] = [
    "set the descriptors of the command",
    "let the kernel kill the command when memory is exhausted",
    "mount /proc for the command",
    "start a session for the command",
    "set the limits of the command",
    "set the user of the command",
    "execute the program",
];
const OOM: usize = 1;
const EXECUTE: usize = STEPS.len() - 1;

/// The error pipe of a child: the first descriptor after the standard streams.
const ERROR_PIPE: RawFd = 3;
/// The executable of a child that executes an open file.
const PROGRAM_FILE: RawFd = 4;

/// Starts `program` in `cgroup`, otherwise in the agent's, and waits until it is executed.
pub fn spawn(program: &Program, cgroup: Option<&Cgroup>) -> Result<Pid, SpawnError> {
    let system = |error: Errno| SpawnError::System(error.into());
    let (mut errors, writer) = io::pipe().map_err(SpawnError::System)?;
    let child_errors = above_targets(&writer).map_err(system)?;
    drop(writer);
    let [stdin, stdout, stderr] = &program.stdio;
    let stdio = [
        above_targets(stdin).map_err(system)?,
        above_targets(stdout).map_err(system)?,
        above_targets(stderr).map_err(system)?,
    ];
    let file = match &program.file {
        Executable::Path(_) => None,
        Executable::File(file) => Some(above_targets(file).map_err(system)?),
    };
    let descriptors = Descriptors {
        stdio: stdio.each_ref().map(AsRawFd::as_raw_fd),
        errors: child_errors.as_raw_fd(),
        file: file.as_ref().map(AsRawFd::as_raw_fd),
    };
    let pid = match fork(cgroup)? {
        Some(pid) => pid,
        None => run_child(program, &descriptors),
    };
    drop((child_errors, stdio, file));
    let mut report = [0; 5];
    match errors.read_exact(&mut report) {
        // Closed by a successful exec.
        Err(_) => Ok(pid),
        Ok(()) => {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            let [step, errno @ ..] = report;
            let source = io::Error::from_raw_os_error(i32::from_le_bytes(errno));
            Err(match usize::from(step) {
                EXECUTE => SpawnError::Execute(source),
                step => SpawnError::Setup {
                    step: STEPS.get(step).copied().unwrap_or("start the command"),
                    source,
                },
            })
        }
    }
}

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's does not fit its type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks, into `cgroup` if there is one. Returns `None` in the child, which may only do what is
/// async-signal-safe and must not return.
///
/// A child that moved itself would wait until the kernel has stopped all forks and exits of the
/// machine, which takes a grace period of RCU; one that begins there does not.
fn fork(cgroup: Option<&Cgroup>) -> Result<Option<Pid>, SpawnError> {
    let forked = match cgroup {
        // SAFETY: needed because no dependency wraps fork safely: the child of a multi-threaded
        // process may only do what is async-signal-safe. `run_child` makes system calls with
        // existing values, allocates nothing, takes no lock and does not return.
        #[allow(unsafe_code)]
        None => unsafe { libc::fork() },
        Some(cgroup) => {
            let arguments = libc::clone_args {
                flags: CLONE_INTO_CGROUP,
                pidfd: 0,
                child_tid: 0,
                parent_tid: 0,
                exit_signal: libc::SIGCHLD as u64,
                stack: 0,
                stack_size: 0,
                tls: 0,
                set_tid: 0,
                set_tid_size: 0,
                cgroup: cgroup.directory().as_raw_fd().cast_unsigned().into(),
            };
            // SAFETY: needed because no dependency wraps clone3. Without CLONE_VM and a stack it is
            // a fork, to whose child the same applies; libc's record of its thread id is the
            // parent's, which the child does not use. The kernel reads `arguments`, of this size.
            #[allow(unsafe_code)]
            let forked = unsafe {
                libc::syscall(
                    libc::SYS_clone3,
                    &raw const arguments,
                    size_of::<libc::clone_args>(),
                )
            };
            forked as libc::pid_t
        }
    };
    match forked {
        0 => Ok(None),
        forked => match Pid::from_raw(forked).filter(|_| forked > 0) {
            Some(pid) => Ok(Some(pid)),
            None => Err(SpawnError::System(io::Error::last_os_error())),
        },
    }
}

/// The sources of a child's descriptors; all are above its targets, so that none is overwritten
/// before it is copied.
struct Descriptors {
    stdio: [RawFd; 3],
    errors: RawFd,
    file: Option<RawFd>,
}

/// A copy of `fd` above the numbers that a child assigns.
fn above_targets(fd: &impl AsFd) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, PROGRAM_FILE + 1)
}

/// The child, up to the exec. Reports the step that failed, and exits.
fn run_child(program: &Program, descriptors: &Descriptors) -> ! {
    let mut step = 0;
    let error = match prepare(program, descriptors, &mut step) {
        Ok(()) => execute(program),
        Err(error) => error,
    };
    let [a, b, c, d] = error.raw_os_error().to_le_bytes();
    let report = [step as u8, a, b, c, d];
    // SAFETY: needed because the pipe has been duplicated to a number that no `OwnedFd` holds; the
    // buffer is valid. `_exit` runs no destructors and no handlers of the parent's.
    #[allow(unsafe_code)]
    unsafe {
        // The source is closed when the descriptors are set.
        let pipe = match step {
            0 | OOM => descriptors.errors,
            _ => ERROR_PIPE,
        };
        libc::write(pipe, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn prepare(program: &Program, descriptors: &Descriptors, step: &mut usize) -> Result<(), Errno> {
    // While the agent's descriptors are open.
    if let Some(proc) = &program.oom_victim {
        *step = OOM;
        oom::allow_kill(proc)?;
        *step = 0;
    }
    set_descriptors(&program.cwd, descriptors)?;
    *step = 2;
    if program.mount_proc {
        mount(c"proc", c"/proc", c"proc", KERNEL_MOUNT, None)?;
    }
    *step = 3;
    rustix::process::setsid()?;
    if program.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    reset_signals();
    *step = 4;
    let limit = getrlimit(Resource::Nofile);
    let current = limit
        .maximum
        .map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(current),
            ..limit
        },
    )?;
    *step = 5;
    // The child has one thread, so per-thread ids are its ids.
    let User { uid, gid, groups } = &program.user;
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
    rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
    *step = EXECUTE;
    Ok(())
}

/// Enters the working directory and leaves only the standard streams, the error pipe and the
/// executable open.
fn set_descriptors(cwd: &OwnedFd, descriptors: &Descriptors) -> Result<(), Errno> {
    rustix::process::fchdir(cwd)?;
    for (source, target) in descriptors.stdio.iter().zip(0..) {
        duplicate(*source, target, 0)?;
    }
    duplicate(descriptors.errors, ERROR_PIPE, libc::O_CLOEXEC)?;
    let mut first_unused = ERROR_PIPE + 1;
    if let Some(file) = descriptors.file {
        duplicate(file, PROGRAM_FILE, libc::O_CLOEXEC)?;
        first_unused = PROGRAM_FILE + 1;
    }
    // SAFETY: needed because no dependency wraps close_range. This process is about to execute
    // another program and uses no descriptor from here on except those below `first_unused`.
    #[allow(unsafe_code)]
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first_unused, u32::MAX, 0) };
    match closed {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

fn duplicate(source: RawFd, target: RawFd, flags: c_int) -> Result<(), Errno> {
    // SAFETY: needed because the targets are fixed numbers that no `OwnedFd` of this process holds
    // any longer: the child never returns to code that uses the agent's descriptors.
    #[allow(unsafe_code)]
    match unsafe { libc::dup3(source, target, flags) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Rust's runtime ignores SIGPIPE, and ignored signals stay ignored across an exec.
fn reset_signals() {
    // SAFETY: needed because no dependency wraps it safely. The default action replaces no handler,
    // and the child does not depend on the action.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Replaces this process. Returns only on failure.
///
/// Not with `execvp`, which runs files that the kernel cannot execute, such as programs for other
/// architectures, with `/bin/sh`. Here they must fail.
fn execute(program: &Program) -> Errno {
    let argv = program.argv.pointers.as_ptr();
    let envp = program.envp.pointers.as_ptr();
    // SAFETY: needed because none of the dependencies wraps execve without allocating. The
    // arguments are C strings and null-terminated arrays of C strings, which `program` keeps alive.
    #[allow(unsafe_code)]
    unsafe {
        match &program.file {
            Executable::Path(path) => libc::execve(path.as_ptr(), argv, envp),
            Executable::File(_) => {
                let nothing = c"".as_ptr();
                // libc wraps it only for some C libraries.
                libc::syscall(
                    libc::SYS_execveat,
                    PROGRAM_FILE,
                    nothing,
                    argv,
                    envp,
                    libc::AT_EMPTY_PATH,
                ) as c_int
            }
        }
    };
    last_error()
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// `/dev/null`, for a standard stream.
pub fn null() -> io::Result<OwnedFd> {
    let mut options = std::fs::File::options();
    Ok(options.read(true).write(true).open("/dev/null")?.into())
}
