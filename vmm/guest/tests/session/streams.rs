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
        shell("sleep 60 & head -c 66000 /bin/busybox; echo end >&2"),
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
fn a_background_process_that_keeps_writing_does_not_hold_the_session_open() {
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
