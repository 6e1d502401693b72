//! Sessions with the real agent, in a root directory with Debian's static busybox. Needs root (for
//! namespaces and other user ids) and busybox-static; `make test` provides both.

#![allow(clippy::unwrap_used)]

mod attached;
mod files;
mod namespaces;
mod processes;
mod refusals;
mod streams;
mod terminals;

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microagent_proto::agent::{
    Configure, Exec, Exited, Failure, FailureKind, Input, Output, Place, Reply, Request, Root,
    STDIN_WINDOW, Trust, WindowSize,
};
use microagent_proto::envelope::{LENGTH, Program, envelope};
use microagent_proto::frame::{
    Kind, read_frame, read_opening, write_frame, write_message, write_opening,
};
use microagent_proto::{OLDEST, VERSION};
use microagent_tests::{program, tool};
use tempfile::TempDir;

/// The time limit for one step, sufficient on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A root directory with busybox, two users and `/dev/null`.
fn scratch_root() -> TempDir {
    let root = TempDir::new().unwrap();
    let path = root.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["bin", "etc", "dev", "dev/pts", "proc", "tmp"] {
        fs::create_dir(path.join(directory)).unwrap();
    }
    program::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "id", "env", "sleep", "kill", "pwd", "head", "yes", "ls", "true", "ps",
        "mount", "mkfifo", "readlink", "seq", "grep", "chmod", "stty", "tty", "stat", "umount",
    ] {
        std::os::unix::fs::symlink("busybox", path.join("bin").join(applet)).unwrap();
    }
    let null = Command::new("mknod")
        .arg(path.join("dev/null"))
        .args(["c", "1", "3"])
        .status();
    assert!(null.unwrap().success());
    fs::set_permissions(path.join("dev/null"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(
        path.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\n",
    )
    .unwrap();
    fs::write(path.join("etc/group"), "wheel:x:10:root\nlog:x:35:www\n").unwrap();
    root
}

/// An agent that serves sessions in a root directory.
struct Agent {
    process: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl Agent {
    fn start(root: &Path) -> Agent {
        Agent::start_with(Command::new(env!("CARGO_BIN_EXE_microagent-guest")), root)
    }

    /// `command` runs the agent with the arguments that are added to it.
    fn start_with(mut command: Command, root: &Path) -> Agent {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let process = command
            .arg("serve")
            .arg(root)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        Agent {
            process,
            socket,
            _directory: directory,
        }
    }

    fn open(&self) -> Session {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Session {
            stream,
            _agent: None,
        }
    }

    fn exec(&self, exec: Exec) -> Session {
        let mut session = self.open();
        session.send(&Request::Exec(exec));
        session
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its threads hand their children on when they end, which must not happen meanwhile.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
        let stopped = rustix::process::WaitIdOptions::STOPPED;
        let _ = rustix::process::waitid(rustix::process::WaitId::Pid(pid), stopped);
        // The first processes of namespaces: the kernel kills the others with them.
        for child in children(self.process.id()) {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The children of all threads of a process.
fn children(process: u32) -> Vec<rustix::process::Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>()
        })
        .collect()
}

struct Session {
    stream: UnixStream,
    _agent: Option<Agent>,
}

/// The output and end of a command.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Exited,
}

impl Session {
    /// A session with an agent of its own.
    fn open(root: &Path) -> Session {
        let agent = Agent::start(root);
        let mut session = agent.open();
        session._agent = Some(agent);
        session
    }

    fn exec(root: &Path, exec: Exec) -> Session {
        let mut session = Session::open(root);
        session.send(&Request::Exec(exec));
        session
    }

    fn send(&mut self, request: &Request) {
        write_opening(&mut self.stream, request).unwrap();
    }

    fn stdin(&mut self, bytes: &[u8]) {
        write_frame(&mut self.stream, Kind::Stdin, bytes).unwrap();
    }

    /// The first reply, after the agent's envelope.
    fn first_reply(&mut self) -> Reply {
        read_opening(
            &mut self.stream,
            Program::CommandLine,
            Program::Agent,
            "a reply",
        )
        .unwrap()
    }

    fn started(&mut self) -> u32 {
        match self.first_reply() {
            Reply::Started { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self) -> Failure {
        let failure = match self.first_reply() {
            Reply::Failed(failure) => failure,
            other => panic!("{other:?}"),
        };
        assert!(read_frame(&mut self.stream).unwrap().is_none());
        failure
    }

    /// Reads everything after `Started`.
    fn rest(&mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let frame = read_frame(&mut self.stream).unwrap().unwrap();
            match frame.kind {
                Kind::Stdout => stdout.extend(frame.payload),
                Kind::Stderr => stderr.extend(frame.payload),
                Kind::Message => {
                    let end = match serde_json::from_slice(&frame.payload).unwrap() {
                        Reply::Exited(end) => end,
                        Reply::StdinConsumed { .. } => continue,
                        other => panic!("{other:?}"),
                    };
                    assert!(read_frame(&mut self.stream).unwrap().is_none());
                    return Outcome {
                        stdout,
                        stderr,
                        end,
                    };
                }
                Kind::Stdin => panic!("stdin from the agent"),
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        self.started();
        self.rest()
    }
}

fn command(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: vec![("PATH".into(), "/bin".into())],
        cwd: String::new(),
        user: String::new(),
        stdin: false,
        output: Output::Separate,
        place: Place::Workload,
        keep: false,
    }
}

/// A command that runs beside the workload.
fn beside(script: &str) -> Exec {
    Exec {
        place: Place::Beside,
        ..shell(script)
    }
}

fn shell(script: &str) -> Exec {
    command(&["sh", "-c", script])
}

fn code(code: i32) -> Exited {
    Exited {
        code: Some(code),
        signal: None,
        out_of_memory: false,
    }
}

fn killed(signal: i32) -> Exited {
    Exited {
        code: None,
        signal: Some(signal),
        out_of_memory: false,
    }
}

fn stdout_of(root: &Path, exec: Exec) -> String {
    let outcome = Session::exec(root, exec).outcome();
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
    assert_eq!(outcome.end, code(0));
    String::from_utf8(outcome.stdout).unwrap()
}

fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + TIMEOUT;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}
