//! User, environment and end of a command, and refused requests.

use std::io::{BufRead, Read};
use std::os::fd::AsRawFd;

use super::*;

#[test]
fn a_signal_that_kills_the_command_is_reported() {
    let root = scratch_root();
    for signal in [9, 15, 34] {
        let end = Session::exec(root.path(), beside(&format!("kill -{signal} $$")))
            .outcome()
            .end;
        assert_eq!(end, killed(signal));
    }
}

#[test]
fn the_command_is_the_leader_of_its_own_session() {
    let root = scratch_root();
    let script = "read -r pid comm state ppid pgrp session rest < /proc/self/stat; \
                  echo $$ $pgrp $session $ppid";
    assert_eq!(stdout_of(root.path(), shell(script)), "1 1 1 0\n");
    let output = stdout_of(root.path(), beside(script));
    let ids: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(ids, [ids[0], ids[0], ids[0], "0"]);
    assert_ne!(ids[0], "1");
}

#[test]
fn a_signal_reaches_the_command_and_not_its_children() {
    let root = scratch_root();
    let mut session = Session::exec(
        root.path(),
        shell(
            "(trap 'echo child' TERM; echo up; read -r line </tmp/never) & \
             trap 'echo parent; exit 7' TERM; while :; do wait; done",
        ),
    );
    tool::run("mkfifo", [root.path().join("tmp/never")]).unwrap();
    session.started();
    let up = read_frame(&mut session.stream).unwrap().unwrap();
    assert_eq!(up.payload, b"up\n");
    write_message(&mut session.stream, &Input::Signal(15)).unwrap();
    let outcome = session.rest();
    assert_eq!(outcome.stdout, b"parent\n");
    assert_eq!(outcome.end, code(7));
}

#[test]
fn closing_the_stream_kills_the_command_and_its_children() {
    let root = scratch_root();
    for place in [Place::Workload, Place::Beside] {
        let exec = Exec {
            place,
            ..shell("sleep 3600 & echo started; wait")
        };
        let agent = Agent::start(root.path());
        let mut session = agent.exec(exec);
        let shell = session.started();
        let frame = read_frame(&mut session.stream).unwrap().unwrap();
        assert_eq!(frame.payload, b"started\n");
        let [child] = children(shell)[..] else {
            panic!("not one child");
        };
        session.stream.shutdown(std::net::Shutdown::Both).unwrap();
        wait_until_gone(shell);
        wait_until_gone(child.as_raw_nonzero().get().unsigned_abs());
    }
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

    exec.env.push(("HOME".into(), String::new()));
    assert!(stdout_of(root.path(), exec.clone()).contains("HOME=/root\n"));
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
    // The group is one of the supplementary ones, too: a setgid program keeps it.
    let mut exec = shell("grep ^Groups: /proc/self/status");
    exec.user = "www".into();
    assert_eq!(stdout_of(root.path(), exec), "Groups:\t34 35 \n");
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
    let mut exec = shell("echo out > /proc/self/fd/1; echo err > /proc/self/fd/2");
    exec.user = "www".into();
    let outcome = Session::exec(root.path(), exec).outcome();
    assert_eq!(outcome.stdout, b"out\n");
    assert_eq!(outcome.stderr, b"err\n");
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
        disk_sectors: Vec::new(),
        root: Root {
            device: "vda".into(),
            fs_type: "ext4".into(),
            read_only: false,
        },
        disks: Vec::new(),
        modules: None,
        network: None,
        trust: Trust::default(),
        cgroups: false,
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
fn a_newer_host_is_answered_if_its_request_is_known() {
    let root = scratch_root();
    let mut request = serde_json::to_value(Request::Exec(shell("echo run"))).unwrap();
    request["exec"]["newer"] = true.into();
    let mut session = Session::open(root.path());
    session.stream.write_all(&envelope(VERSION + 1)).unwrap();
    write_message(&mut session.stream, &request).unwrap();
    session.started();
    assert_eq!(session.rest().stdout, b"run\n");
}

#[test]
fn a_host_that_is_not_understood_gets_the_envelope_alone() {
    let root = scratch_root();
    let mut newer = envelope(VERSION + 1).to_vec();
    write_frame(&mut newer, Kind::Message, br#"{"dance":{}}"#).unwrap();
    let mut of_version_3 = Vec::new();
    write_message(&mut of_version_3, &Request::Exec(shell("echo run"))).unwrap();
    for opening in [&newer[..], &envelope(OLDEST - 1), &of_version_3] {
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
fn one_stuck_execution_does_not_stall_other_sessions() {
    let root = scratch_root();
    let slow = root.path().join("bin/slow");
    program::copy("/bin/busybox", &slow).unwrap();
    // The kernel waits for the holder of a lease when it opens the program.
    let lease = Lease::take(&slow);
    let agent = Agent::start(root.path());
    let mut stuck = agent.exec(beside("exec slow true"));
    let mut stuck_in_exec = agent.exec(Exec {
        place: Place::Beside,
        ..command(&["slow"])
    });
    lease.wait_until_wanted();
    let outcome = agent.exec(beside("echo fine")).outcome();
    assert_eq!(outcome.stdout, b"fine\n");
    drop(lease);
    for session in [&mut stuck, &mut stuck_in_exec] {
        session.started();
        let end = session.rest().end;
        assert!(end.code.is_some(), "{end:?}");
    }
}

/// From Linux's fcntl.h; libc does not define it for every C library.
const F_SETSIG: i32 = 10;

/// A write lease on a file (fcntl(2)).
struct Lease(fs::File);

impl Lease {
    fn take(path: &Path) -> Lease {
        let lease = Lease(fs::File::open(path).unwrap());
        // The signal about the lease is ignored instead of ending the test.
        lease.control(F_SETSIG, libc::SIGURG);
        lease.control(libc::F_SETLEASE, libc::F_WRLCK);
        lease
    }

    fn wait_until_wanted(&self) {
        let deadline = Instant::now() + TIMEOUT;
        // The kernel reports the type to which the lease is to be reduced.
        while self.control(libc::F_GETLEASE, 0) == libc::F_WRLCK {
            assert!(Instant::now() < deadline, "nobody opens the file");
            std::thread::yield_now();
        }
    }

    #[allow(unsafe_code)]
    fn control(&self, command: i32, argument: i32) -> i32 {
        // SAFETY: needed because no dependency wraps leases. The descriptor is open, and these
        // commands take an integer.
        let result = unsafe { libc::fcntl(self.0.as_raw_fd(), command, argument) };
        assert_ne!(result, -1, "{}", std::io::Error::last_os_error());
        result
    }
}

#[test]
fn without_descriptors_the_agent_waits_and_recovers() {
    let root = scratch_root();
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 34; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_microagent-guest"))
        .stderr(Stdio::piped());
    let mut agent = Agent::start_with(limited, root.path());
    let mut errors = std::io::BufReader::new(agent.process.stderr.take().unwrap());
    let sessions: Vec<Session> = (0..32).map(|_| agent.open()).collect();
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert_eq!(
        line,
        "microagent-guest: cannot accept a session: Too many open files (os error 24)\n"
    );
    drop(sessions);
    // It closes them one after the other.
    let descriptors = format!("/proc/{}/fd", agent.process.id());
    while std::fs::read_dir(&descriptors).unwrap().count() > 15 {
        std::thread::yield_now();
    }
    let outcome = agent.exec(shell("echo fine")).outcome();
    assert_eq!(outcome.stdout, b"fine\n");
    drop(agent);
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    // It did not try again and again, and did not fail again.
    assert!(!rest.contains("cannot accept"), "{rest}");
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
