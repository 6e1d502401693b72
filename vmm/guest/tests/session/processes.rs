//! User, environment and end of a command, and refused requests.

use std::io::Read;

use super::*;

#[test]
fn a_signal_that_kills_the_command_is_reported() {
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
fn the_command_is_the_leader_of_its_own_session() {
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
fn a_signal_reaches_the_whole_process_group() {
    let root = scratch_root();
    // The parent sets its trap before it starts the child that prints "up".
    let mut session = Session::exec(
        root.path(),
        shell(
            "trap 'wait; echo parent; exit 7' TERM; \
               (trap 'echo child; exit' TERM; echo up; while :; do sleep 0.1; done) & \
               while :; do wait; done",
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
fn the_environment_is_that_of_the_request_plus_home() {
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
fn an_unknown_user_is_named() {
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
fn a_missing_working_directory_is_created() {
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
fn commands_that_cannot_run_fail_as_in_a_shell() {
    let root = scratch_root();
    let bin = root.path().join("bin");
    let write =
        |name: &str, text: &str, mode: u32| program::write(bin.join(name), mode, text).unwrap();
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
        expected(NotFound, "nothing was not found in PATH (/bin)")
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
fn invalid_and_unexpected_requests_are_refused() {
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
        disks: Vec::new(),
        modules: None,
    }));
    let failure = session.failure();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert_eq!(failure.message, "this VM is already configured");

    let mut session = Session::open(root.path());
    session.stream.write_all(&envelope(VERSION)).unwrap();
    write_frame(
        &mut session.stream,
        Kind::Message,
        b"{\"exec\":{\"argv\":[]}}",
    )
    .unwrap();
    assert_eq!(session.failure().kind, FailureKind::BadRequest);

    let mut session = Session::exec(root.path(), command(&[]));
    assert_eq!(session.failure().message, "the command is empty");

    let mut session = Session::open(root.path());
    session.stream.write_all(&envelope(VERSION)).unwrap();
    session.stream.write_all(&[9, 0, 0, 0, 0]).unwrap();
    assert!(read_frame(&mut session.stream).unwrap().is_none());
}

#[test]
fn a_host_of_another_version_gets_the_envelope_alone() {
    let root = scratch_root();
    let mut of_version_3 = Vec::new();
    write_message(&mut of_version_3, &Request::Exec(shell("echo run"))).unwrap();
    for opening in [
        &envelope(VERSION + 1)[..],
        &envelope(VERSION - 1),
        &of_version_3,
    ] {
        let mut session = Session::open(root.path());
        session.stream.write_all(opening).unwrap();
        let mut answer = [0; LENGTH];
        session.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, envelope(VERSION));
        // The end, or a reset if the agent had not read everything.
        assert!(!matches!(session.stream.read(&mut answer), Ok(1..)));
    }
}

#[test]
fn reaping_orphans_does_not_lose_the_status_of_a_command() {
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
fn the_agent_refuses_to_run_as_another_process() {
    let output = Command::new(env!("CARGO_BIN_EXE_microagent-guest"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "microagent-guest: microagent-guest runs only as the first process (PID 1) of a microVM\n"
    );
}
