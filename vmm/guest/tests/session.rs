//! One session against the real agent, in a root made of Debian's static busybox. Needs root (for
//! chroot and other users' ids) and busybox-static; `make test` provides both.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microagent_proto::agent::{
    Configure, Exec, Exited, Failure, FailureKind, Input, Reply, Request, Root,
};
use microagent_proto::frame::{Kind, read_frame, write_frame, write_message};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A root with busybox, two users, and the devices a command expects.
fn scratch_root() -> TempDir {
    let root = TempDir::new().unwrap();
    let path = root.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["bin", "etc", "dev", "proc", "tmp"] {
        fs::create_dir(path.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "id", "env", "sleep", "kill", "pwd", "head", "yes", "ls", "true",
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

struct Session {
    stream: UnixStream,
    agent: Child,
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Exited,
}

impl Session {
    fn open(root: &Path) -> Session {
        Session::open_with(Command::new(env!("CARGO_BIN_EXE_microagent-guest")), root)
    }

    fn open_with(mut agent: Command, root: &Path) -> Session {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        // As little as the kernel allows, so that backpressure is met early.
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 1).unwrap();
        let agent = agent
            .arg("serve-session")
            .arg(root)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Session {
            stream: ours,
            agent,
        }
    }

    fn exec(root: &Path, exec: Exec) -> Session {
        let mut session = Session::open(root);
        session.send(&Request::Exec(exec));
        session
    }

    fn send(&mut self, request: &Request) {
        write_message(&mut self.stream, request).unwrap();
    }

    fn stdin(&mut self, bytes: &[u8]) {
        write_frame(&mut self.stream, Kind::Stdin, bytes).unwrap();
    }

    fn reply(&mut self) -> Reply {
        let frame = read_frame(&mut self.stream).unwrap().unwrap();
        assert_eq!(frame.kind, Kind::Message);
        serde_json::from_slice(&frame.payload).unwrap()
    }

    fn started(&mut self) -> u32 {
        match self.reply() {
            Reply::Started { pid } => pid,
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self) -> Failure {
        let failure = match self.reply() {
            Reply::Failed(failure) => failure,
            other => panic!("{other:?}"),
        };
        assert!(read_frame(&mut self.stream).unwrap().is_none());
        failure
    }

    /// Everything from `Started` on.
    fn rest(&mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let frame = read_frame(&mut self.stream).unwrap().unwrap();
            match frame.kind {
                Kind::Stdout => stdout.extend(frame.payload),
                Kind::Stderr => stderr.extend(frame.payload),
                Kind::Message => {
                    let Reply::Exited(end) = serde_json::from_slice(&frame.payload).unwrap() else {
                        panic!("not the end");
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

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn command(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: vec![("PATH".into(), "/bin".into())],
        cwd: String::new(),
        user: String::new(),
        stdin: false,
    }
}

fn shell(script: &str) -> Exec {
    command(&["sh", "-c", script])
}

fn code(code: i32) -> Exited {
    Exited {
        code: Some(code),
        signal: None,
    }
}

fn stdout_of(root: &Path, exec: Exec) -> String {
    let outcome = Session::exec(root, exec).outcome();
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
    assert_eq!(outcome.end, code(0));
    String::from_utf8(outcome.stdout).unwrap()
}

fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn both_streams_and_the_exit_code_arrive() {
    let root = scratch_root();
    let outcome = Session::exec(root.path(), shell("echo out; echo err >&2; exit 3")).outcome();
    assert_eq!(
        outcome,
        Outcome {
            stdout: b"out\n".to_vec(),
            stderr: b"err\n".to_vec(),
            end: code(3)
        }
    );
}

#[test]
fn a_signal_that_ends_the_command_is_reported_as_one() {
    let root = scratch_root();
    for signal in [9, 15, 34] {
        let end = Session::exec(root.path(), shell(&format!("kill -{signal} $$")))
            .outcome()
            .end;
        let expected = Exited {
            code: None,
            signal: Some(signal),
        };
        assert_eq!(end, expected);
    }
}

#[test]
fn the_session_is_led_by_the_command_in_a_session_of_its_own() {
    let root = scratch_root();
    let script =
        "read -r pid comm state ppid pgrp session rest < /proc/self/stat; echo $pgrp $session";
    let mounted = Command::new("mount")
        .args(["-t", "proc", "proc"])
        .arg(root.path().join("proc"))
        .status();
    assert!(mounted.unwrap().success());
    let mut session = Session::exec(root.path(), shell(script));
    let pid = session.started();
    let outcome = session.rest();
    let unmounted = Command::new("umount")
        .arg(root.path().join("proc"))
        .status();
    assert!(unmounted.unwrap().success());
    assert_eq!(
        String::from_utf8(outcome.stdout).unwrap(),
        format!("{pid} {pid}\n")
    );
}

#[test]
fn a_hundred_megabytes_arrive_whole() {
    const LENGTH: usize = 100 << 20;
    let root = scratch_root();
    let outcome = Session::exec(
        root.path(),
        shell(&format!("yes 0123456 | head -c {LENGTH}")),
    )
    .outcome();
    assert_eq!(outcome.end, code(0));
    assert_eq!(outcome.stdout.len(), LENGTH);
    assert!(outcome.stdout.chunks(8).all(|line| line == b"0123456\n"));
}

#[test]
fn what_was_written_before_the_exit_arrives_however_slow_the_host_is() {
    let root = scratch_root();
    // A little more than one pipe or one frame holds, so that the agent is blocked on its small
    // socket when the shell exits and something is still in the pipe, which the background process
    // keeps open.
    let mut session = Session::exec(
        root.path(),
        shell("sleep 60 & head -c 66000 /bin/busybox; echo end >&2"),
    );
    let shell = session.started();
    wait_until_gone(shell);
    let outcome = session.rest();
    assert_eq!(outcome.stdout.len(), 66_000);
    assert_eq!(outcome.stderr, b"end\n");
}

#[test]
fn every_byte_value_goes_through_unchanged_both_ways() {
    let root = scratch_root();
    let mut exec = command(&["cat"]);
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut writer = session.stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        for chunk in sent.chunks(65_536) {
            write_frame(&mut writer, Kind::Stdin, chunk).unwrap();
        }
        write_frame(&mut writer, Kind::Stdin, b"").unwrap();
    });
    let outcome = session.outcome();
    writing.join().unwrap();
    assert_eq!(outcome.end, code(0));
    assert_eq!(outcome.stdout, bytes);
}

#[test]
fn several_frames_at_once_reach_a_command_that_reads_slowly() {
    let root = scratch_root();
    let mut exec = shell("sleep 1; cat");
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    // Two more than a pipe holds, then the end, all before the command reads.
    for byte in [b'a', b'b', b'c'] {
        session.stdin(&vec![byte; 65_536]);
    }
    session.stdin(b"");
    let outcome = session.outcome();
    assert_eq!(outcome.stdout.len(), 3 * 65_536);
    assert_eq!(outcome.end, code(0));
}

#[test]
fn stdin_is_empty_unless_asked_for() {
    let root = scratch_root();
    assert_eq!(stdout_of(root.path(), shell("cat; echo done")), "done\n");
}

#[test]
fn input_that_nobody_reads_does_not_hurt() {
    let root = scratch_root();
    let mut exec = shell("exec <&-; echo closed; sleep 1; echo end");
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    session.stdin(&vec![0; 200_000]);
    session.stdin(b"more");
    let outcome = session.outcome();
    assert_eq!(outcome.stdout, b"closed\nend\n");
    assert_eq!(outcome.end, code(0));
}

#[test]
fn a_background_process_does_not_hold_the_session() {
    let root = scratch_root();
    let start = Instant::now();
    let outcome = Session::exec(root.path(), shell("sleep 60 & echo started")).outcome();
    assert_eq!(outcome.stdout, b"started\n");
    assert_eq!(outcome.end, code(0));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_background_process_that_keeps_writing_does_not_hold_the_session() {
    let root = scratch_root();
    let start = Instant::now();
    let outcome = Session::exec(root.path(), shell("yes & echo started >&2")).outcome();
    assert_eq!(outcome.end, code(0));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_signal_reaches_the_whole_process_group() {
    let root = scratch_root();
    let mut session = Session::exec(
        root.path(),
        shell(
            "(trap 'echo child; exit' TERM; echo up; while :; do sleep 0.1; done) & \
               trap 'wait; echo parent; exit 7' TERM; while :; do wait; done",
        ),
    );
    session.started();
    let up = read_frame(&mut session.stream).unwrap().unwrap();
    assert_eq!(up.payload, b"up\n");
    write_message(&mut session.stream, &Input::Signal(15)).unwrap();
    let outcome = session.rest();
    assert_eq!(outcome.stdout, b"child\nparent\n");
    assert_eq!(outcome.end, code(7));
}

#[test]
fn closing_the_stream_kills_the_command_and_its_children() {
    let root = scratch_root();
    let mut session = Session::exec(root.path(), shell("sleep 3600 & echo $!; wait"));
    let shell = session.started();
    let frame = read_frame(&mut session.stream).unwrap().unwrap();
    let child: u32 = String::from_utf8(frame.payload)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    session.stream.shutdown(std::net::Shutdown::Both).unwrap();
    wait_until_gone(shell);
    wait_until_gone(child);
}

#[test]
fn the_environment_is_exactly_what_was_asked_for_and_a_home() {
    let root = scratch_root();
    let mut exec = command(&["env"]);
    exec.env = vec![
        ("PATH".into(), "/bin".into()),
        ("A".into(), "1".into()),
        ("EMPTY".into(), String::new()),
        ("A".into(), "x=y z".into()),
    ];
    let text = stdout_of(root.path(), exec.clone());
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=x=y z", "EMPTY=", "HOME=/root", "PATH=/bin"]);

    exec.env.push(("HOME".into(), "/elsewhere".into()));
    assert!(stdout_of(root.path(), exec).contains("HOME=/elsewhere\n"));
}

#[test]
fn the_user_has_its_ids_groups_and_home() {
    let root = scratch_root();
    let ids = |user: &str| {
        let mut exec = shell("id -u; id -g; id -G; echo $HOME");
        exec.user = user.into();
        stdout_of(root.path(), exec)
    };
    assert_eq!(ids(""), "0\n0\n0 10\n/root\n");
    assert_eq!(ids("www"), "33\n34\n34 35\n/var/www\n");
    assert_eq!(ids("www:log"), "33\n35\n35\n/var/www\n");
    assert_eq!(ids("1234:99"), "1234\n99\n99\n/\n");
}

#[test]
fn a_user_that_is_not_in_the_image_is_named() {
    let root = scratch_root();
    let mut exec = command(&["true"]);
    exec.user = "nobody".into();
    let failure = Session::exec(root.path(), exec).failure();
    assert_eq!(
        failure,
        Failure {
            kind: FailureKind::UnknownUser,
            message: "the image has no user \"nobody\" in /etc/passwd".into()
        }
    );
}

#[test]
fn the_working_directory_is_created_for_whoever_runs_there() {
    let root = scratch_root();
    let mut exec = shell("pwd; ls -ld .");
    exec.cwd = "/srv/new/place".into();
    exec.user = "www".into();
    let text = stdout_of(root.path(), exec);
    assert!(text.starts_with("/srv/new/place\ndrwxr-xr-x"), "{text}");
    let mut exec = command(&["pwd"]);
    exec.cwd = "/bin/busybox".into();
    let failure = Session::exec(root.path(), exec).failure();
    assert_eq!(failure.kind, FailureKind::System);
    assert!(
        failure
            .message
            .starts_with("cannot use the working directory /bin/busybox: "),
        "{}",
        failure.message
    );
}

#[test]
fn standard_output_can_be_opened_by_name_as_another_user() {
    let root = scratch_root();
    fs::create_dir(root.path().join("dev/fd")).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "proc", "proc"])
        .arg(root.path().join("proc"))
        .status();
    assert!(mounted.unwrap().success());
    let mut exec = shell("echo out > /proc/self/fd/1; echo err > /proc/self/fd/2");
    exec.user = "www".into();
    let outcome = Session::exec(root.path(), exec).outcome();
    let unmounted = Command::new("umount")
        .arg(root.path().join("proc"))
        .status();
    assert!(unmounted.unwrap().success());
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
}

#[test]
fn commands_that_cannot_run_are_told_apart_as_a_shell_does() {
    let root = scratch_root();
    let bin = root.path().join("bin");
    let write = |name: &str, text: &str, mode: u32| {
        fs::write(bin.join(name), text).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    write("plain", "#!/bin/sh\n", 0o644);
    write("orphan", "#!/usr/bin/perl -w\n", 0o755);
    write("garbage", "\u{1}\u{2}", 0o755);
    write("secret", "#!/bin/sh\n", 0o700);
    let run = |argv0: &str, user: &str| {
        let mut exec = command(&[argv0]);
        exec.user = user.into();
        let failure = Session::exec(root.path(), exec).failure();
        (failure.kind, failure.message)
    };
    use FailureKind::{NotExecutable, NotFound};
    let expected = |kind, message: &str| (kind, message.to_owned());
    assert_eq!(
        run("nothing", ""),
        expected(NotFound, "nothing is in no directory of PATH (/bin)")
    );
    assert_eq!(
        run("/bin/nothing", ""),
        expected(NotFound, "the image has no /bin/nothing")
    );
    assert_eq!(
        run("plain", ""),
        expected(NotExecutable, "/bin/plain is not executable")
    );
    assert_eq!(
        run("/bin", ""),
        expected(NotExecutable, "/bin is not executable")
    );
    assert_eq!(
        run("orphan", ""),
        expected(
            NotExecutable,
            "/bin/orphan needs /usr/bin/perl, which the image does not have"
        )
    );
    assert_eq!(
        run("garbage", ""),
        expected(
            NotExecutable,
            "cannot execute /bin/garbage: Exec format error (os error 8)"
        )
    );
    assert_eq!(
        run("secret", "www"),
        expected(NotExecutable, "/bin/secret is not executable")
    );
}

#[test]
fn a_relative_command_is_found_from_the_working_directory() {
    let root = scratch_root();
    let mut exec = command(&["bin/pwd"]);
    exec.cwd = "/".into();
    assert_eq!(stdout_of(root.path(), exec), "/\n");
}

#[test]
fn requests_out_of_order_or_malformed_are_answered() {
    let root = scratch_root();
    let mut session = Session::open(root.path());
    session.send(&Request::Configure(Configure {
        unix_nanos: 0,
        entropy: Vec::new(),
        hostname: "x".into(),
        root: Root {
            device: "vda".into(),
            fs_type: "ext4".into(),
            read_only: false,
        },
    }));
    let failure = session.failure();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert_eq!(failure.message, "this VM is configured already");

    let mut session = Session::open(root.path());
    write_frame(
        &mut session.stream,
        Kind::Message,
        b"{\"exec\":{\"argv\":[]}}",
    )
    .unwrap();
    assert_eq!(session.failure().kind, FailureKind::BadRequest);

    let mut session = Session::exec(root.path(), command(&[]));
    assert_eq!(session.failure().message, "there is no command to run");

    let mut session = Session::open(root.path());
    session.stream.write_all(&[9, 0, 0, 0, 0]).unwrap();
    assert!(read_frame(&mut session.stream).unwrap().is_none());
}

#[test]
fn orphans_are_reaped_while_commands_keep_their_status() {
    let root = scratch_root();
    let mut agent = Command::new("unshare");
    agent.args(["--pid", "--fork", "--kill-child"]);
    agent.arg(env!("CARGO_BIN_EXE_microagent-guest"));
    let mut session = Session::open_with(agent, root.path());
    // A hundred orphans that end before and after their parent does.
    let script = "i=0; while [ $i -lt 100 ]; do ( (sleep 0.00$((i % 7))) & ) ; i=$((i+1)); done; \
                  sleep 0.3; exit 5";
    session.send(&Request::Exec(shell(script)));
    assert_eq!(session.outcome().end, code(5));
}

#[test]
fn the_agent_does_nothing_when_it_is_started_by_hand() {
    let output = Command::new(env!("CARGO_BIN_EXE_microagent-guest"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "microagent-guest: microagent-guest is the first process of a microVM; \
         it cannot be run by hand\n"
    );
}
