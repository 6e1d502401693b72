//! Input and output of a command: complete and in order.

use super::*;

#[test]
fn both_streams_and_the_exit_code_are_received() {
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
fn a_hundred_megabytes_are_received_completely() {
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
fn output_written_before_the_exit_is_received_even_by_a_slow_host() {
    let root = scratch_root();
    // Slightly more than fits into one pipe or one frame: when the shell exits, the agent is
    // blocked on its small socket and the pipe, which the background process keeps open, still
    // holds bytes.
    let mut session = Session::exec(
        root.path(),
        beside("sleep 60 & head -c 66000 /bin/busybox; echo end >&2"),
    );
    let shell = session.started();
    wait_until_gone(shell);
    let outcome = session.rest();
    assert_eq!(outcome.stdout.len(), 66_000);
    assert_eq!(outcome.stderr, b"end\n");
}

#[test]
fn every_byte_value_is_unchanged_in_both_directions() {
    let root = scratch_root();
    let mut exec = command(&["cat"]);
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    session.started();
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let mut chunks = bytes.chunks(50_000).chain([&b""[..]]).peekable();
    let mut window = STDIN_WINDOW;
    let mut received = Vec::new();
    let end = loop {
        while let Some(chunk) = chunks.next_if(|chunk| chunk.len() <= window) {
            window -= chunk.len();
            session.stdin(chunk);
        }
        let frame = read_frame(&mut session.stream).unwrap().unwrap();
        match frame.kind {
            Kind::Stdout => received.extend(frame.payload),
            Kind::Message => match serde_json::from_slice(&frame.payload).unwrap() {
                Reply::StdinConsumed { bytes } => window += bytes,
                Reply::Exited(end) => break end,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end, code(0));
    assert_eq!(window, STDIN_WINDOW);
    assert!(received == bytes);
}

#[test]
fn input_beyond_the_window_ends_the_session() {
    let root = scratch_root();
    let mut exec = command(&["sleep", "1000"]);
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    session.started();
    // What the pipe accepts is consumed.
    for _ in 0..=STDIN_WINDOW / (64 << 10) + 1 {
        session.stdin(&[0; 64 << 10]);
    }
    while let Ok(Some(frame)) = read_frame(&mut session.stream) {
        let reply = serde_json::from_slice(&frame.payload).unwrap();
        assert!(matches!(reply, Reply::StdinConsumed { .. }), "{reply:?}");
    }
}

/// Waits until a process, and the agent that forwards its output, have nothing left to do.
fn wait_until_asleep(pid: u32) {
    let deadline = Instant::now() + TIMEOUT;
    let mut asleep = 0;
    while asleep < 1000 {
        assert!(Instant::now() < deadline, "{pid} does not sleep");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        asleep = match stat.contains(") S ") {
            true => asleep + 1,
            false => 0,
        };
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_is_delivered_while_the_host_does_not_read() {
    let root = scratch_root();
    let mut session = Session::exec(root.path(), command(&["yes"]));
    let pid = session.started();
    wait_until_asleep(pid);
    write_message(&mut session.stream, &Input::Signal(9)).unwrap();
    wait_until_gone(pid);
    assert_eq!(session.rest().end, killed(9));
}

#[test]
fn input_is_delivered_while_the_host_does_not_read() {
    let root = scratch_root();
    let mut exec = shell("head -c 1000000 /bin/busybox & cat >/tmp/input; echo end >&2; wait");
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    session.started();
    session.stdin(b"input");
    session.stdin(b"");
    let path = root.path().join("tmp/input");
    let deadline = Instant::now() + TIMEOUT;
    while fs::read(&path).unwrap_or_default() != b"input" {
        assert!(Instant::now() < deadline, "the input did not arrive");
        std::thread::yield_now();
    }
    let outcome = session.rest();
    assert_eq!(outcome.stdout.len(), 1_000_000);
    assert_eq!(outcome.stderr, b"end\n");
}

#[test]
fn a_signal_is_delivered_while_the_command_does_not_read() {
    let root = scratch_root();
    let mut exec = shell("trap 'exit 7' TERM; echo up; while :; do wait; sleep 0.01; done");
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    session.started();
    assert_eq!(
        read_frame(&mut session.stream).unwrap().unwrap().payload,
        b"up\n"
    );
    session.stdin(&vec![0; STDIN_WINDOW]);
    write_message(&mut session.stream, &Input::Signal(15)).unwrap();
    assert_eq!(session.rest().end, code(7));
}

#[test]
fn merged_output_keeps_the_order_of_writing() {
    let root = scratch_root();
    let mut exec = shell("for i in $(seq 1000); do echo o$i; echo e$i >&2; done");
    exec.output = Output::Merged;
    let outcome = Session::exec(root.path(), exec).outcome();
    let expected: String = (1..=1000).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), expected);
    assert_eq!(outcome.stderr, b"");
}

#[test]
fn a_slow_command_receives_several_frames_sent_at_once() {
    let root = scratch_root();
    let mut exec = shell("sleep 1; cat");
    exec.stdin = true;
    let mut session = Session::exec(root.path(), exec);
    // Two frames more than a pipe holds, then the end, all before the command reads.
    for byte in [b'a', b'b', b'c'] {
        session.stdin(&vec![byte; 65_536]);
    }
    session.stdin(b"");
    let outcome = session.outcome();
    assert_eq!(outcome.stdout.len(), 3 * 65_536);
    assert_eq!(outcome.end, code(0));
}

#[test]
fn stdin_is_empty_unless_requested() {
    let root = scratch_root();
    assert_eq!(stdout_of(root.path(), shell("cat; echo done")), "done\n");
}

#[test]
fn unread_input_is_discarded() {
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
fn a_background_process_does_not_hold_the_session_open() {
    let root = scratch_root();
    let start = Instant::now();
    let outcome = Session::exec(root.path(), beside("sleep 60 & echo started")).outcome();
    assert_eq!(outcome.stdout, b"started\n");
    assert_eq!(outcome.end, code(0));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_background_process_that_keeps_writing_does_not_hold_the_session_open() {
    let root = scratch_root();
    let start = Instant::now();
    let outcome = Session::exec(root.path(), beside("yes & echo started >&2")).outcome();
    assert_eq!(outcome.end, code(0));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}
