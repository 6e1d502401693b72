//! A workload whose session is lost and replaced, as when its VM is restored.

use std::net::Shutdown;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

fn kept(script: &str) -> Exec {
    Exec {
        keep: true,
        ..shell(script)
    }
}

fn attach(agent: &Agent) -> Session {
    let mut session = agent.open();
    session.send(&Request::Attach);
    session
}

#[test]
fn a_workload_goes_on_in_another_session() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    assert_eq!(
        attach(&agent).failure().message,
        "there is no workload to attach to"
    );
    // It writes more than the pipe and the stream take, so that it has not ended when it is lost.
    fifo(root.path());
    let mut first = agent.exec(kept("seq 300000; read -r x </fifo; echo $x; exit 7"));

    first.started();
    let mut lines = Vec::new();
    while lines.len() < 100_000 {
        let frame = read_frame(&mut first.stream).unwrap().unwrap();
        lines.extend(frame.payload);
    }
    first.stream.shutdown(Shutdown::Both).unwrap();
    drop(first);
    let mut second = attach(&agent);
    assert!(matches!(second.first_reply(), Reply::Attached));
    // It opens the other end when its output has been read.
    let path = root.path().join("fifo");
    let writer = std::thread::spawn(move || fs::write(path, "on\n").unwrap());
    let outcome = second.rest();
    writer.join().unwrap();
    assert_eq!((outcome.end, &outcome.stderr[..]), (code(7), &b""[..]));
    // What was on its way to the first session is lost, and nothing else: whole frames.
    let end = String::from_utf8(outcome.stdout).unwrap();
    assert!(end.ends_with("\n299999\n300000\non\n"), "{}", end.len());
    assert_eq!(
        attach(&agent).failure().message,
        "there is no workload to attach to"
    );
}

#[test]
fn a_workload_that_ends_without_a_session_is_reported_to_the_next_one() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    fifo(root.path());
    let mut first = agent.exec(kept("echo started; read -r x </fifo; exit 3"));

    let shell = first.started();
    assert_eq!(
        read_frame(&mut first.stream).unwrap().unwrap().payload,
        b"started\n"
    );
    first.stream.shutdown(Shutdown::Both).unwrap();
    fs::write(root.path().join("fifo"), "on\n").unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while !fs::read_to_string(format!("/proc/{shell}/stat"))
        .unwrap()
        .contains(") Z ")
    {
        assert!(Instant::now() < deadline, "the command has not ended");
        std::thread::yield_now();
    }
    let mut second = attach(&agent);
    assert!(matches!(second.first_reply(), Reply::Attached));
    let outcome = second.rest();
    assert_eq!((outcome.end, outcome.stdout.len()), (code(3), 0));
}

#[test]
fn a_command_that_is_not_kept_ends_with_its_session() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    for exec in [
        shell("sleep 1000"),
        Exec {
            keep: true,
            ..beside("sleep 1000")
        },
    ] {
        let mut session = agent.exec(exec);
        let pid = session.started();
        assert_eq!(
            attach(&agent).failure().message,
            "there is no workload to attach to"
        );
        session.stream.shutdown(Shutdown::Both).unwrap();
        wait_until_gone(pid);
    }
}

/// A named pipe in the root.
fn fifo(root: &Path) {
    let (kind, mode) = (FileType::Fifo, Mode::from_raw_mode(0o600));
    mknodat(CWD, root.join("fifo"), kind, mode, 0).unwrap();
}
