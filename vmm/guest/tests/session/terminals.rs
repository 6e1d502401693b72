//! Commands with a terminal, and commands without a session.

use super::*;

const SIZE: WindowSize = WindowSize {
    rows: 24,
    columns: 80,
};

/// A command beside the workload, with a terminal and input.
fn on_terminal(script: &str) -> Exec {
    Exec {
        stdin: true,
        output: Output::Terminal(SIZE),
        ..beside(script)
    }
}

/// The text of a terminal, with the line ends of a pipe.
fn text(outcome: &Outcome) -> String {
    assert_eq!(outcome.stderr, b"");
    String::from_utf8_lossy(&outcome.stdout).replace("\r\n", "\n")
}

impl Session {
    fn input(&mut self, input: &Input) {
        write_message(&mut self.stream, input).unwrap();
    }

    /// Reads output until it ends with `expected`.
    fn read_until(&mut self, expected: &str) {
        let mut read = String::new();
        while !read.ends_with(expected) {
            let frame = read_frame(&mut self.stream).unwrap().unwrap();
            match frame.kind {
                Kind::Stdout => read.push_str(&String::from_utf8_lossy(&frame.payload)),
                Kind::Message => match serde_json::from_slice(&frame.payload).unwrap() {
                    Reply::StdinConsumed { .. } => {}
                    other => panic!("{other:?} after {read:?}"),
                },
                other => panic!("{other:?} after {read:?}"),
            }
        }
    }
}

/// Waits until the file `name` in the root's `/tmp` has this content.
fn wait_for_file(root: &Path, name: &str, content: &str) {
    let path = root.join("tmp").join(name);
    let deadline = Instant::now() + TIMEOUT;
    while fs::read_to_string(&path).unwrap_or_default() != content {
        assert!(Instant::now() < deadline, "{name} is not {content:?}");
        std::thread::yield_now();
    }
}

#[test]
fn the_terminal_controls_the_commands_session_and_belongs_to_its_user() {
    let root = scratch_root();
    // The seventh field is the number of the terminal, the eighth its foreground process group.
    let script = "stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all
        read -r pid comm state ppid pgrp session tty foreground rest </proc/self/stat
        [ $tty != 0 ] && [ $session = $pgrp ] && echo own; echo named >$(tty); stat -c '%u %g %a' $(tty)";
    for place in [Place::Workload, Place::Beside] {
        for (user, owner) in [("", "0 5 620"), ("www", "33 5 620")] {
            let exec = Exec {
                place,
                user: user.into(),
                ..on_terminal(script)
            };
            let outcome = Session::exec(root.path(), exec).outcome();
            assert_eq!(
                text(&outcome),
                format!("24 80\n/dev/pts/0\nall\nown\nnamed\n{owner}\n")
            );
            assert_eq!(outcome.end, code(0));
        }
    }
}

#[test]
fn keys_signal_the_foreground_and_the_end_of_the_input_ends_a_reader() {
    let root = scratch_root();
    let script = "trap 'echo interrupted; exit 130' INT; echo up; while :; do read -r line; done";
    let mut session = Session::exec(root.path(), on_terminal(script));
    session.started();
    session.read_until("up\r\n");
    session.stdin(b"\x03");
    let outcome = session.rest();
    assert_eq!(text(&outcome), "^Cinterrupted\n");
    assert_eq!(outcome.end, code(130));

    let mut session = Session::exec(root.path(), on_terminal("cat; echo end"));
    session.started();
    session.stdin(b"a line\n");
    session.read_until("a line\r\na line\r\n");
    session.stdin(b"");
    let outcome = session.rest();
    assert_eq!((text(&outcome).as_str(), outcome.end), ("end\n", code(0)));
}

#[test]
fn sizes_and_signals_arrive_while_the_host_does_not_read() {
    let root = scratch_root();
    let script =
        "trap 'stty size >/tmp/size' WINCH; yes & echo $! >/tmp/child; while :; do wait; done";
    let mut session = Session::exec(root.path(), on_terminal(script));
    session.started();
    wait_for_file(root.path(), "size", "");
    let mut size = SIZE;
    let deadline = Instant::now() + TIMEOUT;
    // The first ones may come before the shell is ready for them.
    while fs::read_to_string(root.path().join("tmp/size")).unwrap_or_default() != "50 132\n" {
        size.rows = if size.rows == 50 { 49 } else { 50 };
        size.columns = 132;
        session.input(&Input::Resize(size));
        assert!(Instant::now() < deadline, "the size did not arrive");
        std::thread::sleep(Duration::from_millis(20));
    }
    session.input(&Input::Kill);
    assert_eq!(session.rest().end, killed(9));
}

#[test]
fn all_output_to_a_terminal_arrives_before_the_end() {
    let root = scratch_root();
    for _ in 0..20 {
        let outcome = Session::exec(root.path(), on_terminal("seq 20000")).outcome();
        let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
        assert!(text(&outcome) == expected, "{}", outcome.stdout.len());
        assert_eq!(outcome.end, code(0));
    }
}

#[test]
fn a_command_that_is_left_goes_on_and_its_output_is_discarded() {
    let root = scratch_root();
    let fifo = root.path().join("tmp/go");
    tool::run("mkfifo", [&fifo]).unwrap();
    let agent = Agent::start(root.path());
    for (output, open, up) in [
        (Output::Terminal(SIZE), "-t 1", "up\r\n"),
        (Output::Separate, "-p /proc/self/fd/1", "up\n"),
    ] {
        let script = format!(
            "trap 'echo hup >/tmp/end' HUP; echo up; read -r line </tmp/go; seq 100000; \
             test {open} && echo $line >/tmp/end"
        );
        let mut session = agent.exec(Exec {
            output,
            ..on_terminal(&script)
        });
        let pid = session.started();
        session.read_until(up);
        session.input(&Input::Detach);
        let reply = read_frame(&mut session.stream).unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<Reply>(&reply.payload).unwrap(),
            Reply::Detached
        );
        assert!(read_frame(&mut session.stream).unwrap().is_none());
        drop(session);
        fs::write(&fifo, "alive\n").unwrap();
        wait_for_file(root.path(), "end", "alive\n");
        wait_until_gone(pid);
        fs::remove_file(root.path().join("tmp/end")).unwrap();
    }
}

#[test]
fn a_command_without_a_session_goes_on_and_its_id_is_that_of_its_namespace() {
    let root = scratch_root();
    let fifo = root.path().join("tmp/go");
    tool::run("mkfifo", [&fifo]).unwrap();
    let agent = Agent::start(root.path());
    let mut session = agent.exec(Exec {
        output: Output::Discard,
        ..beside("seq 100000; echo $$ >/tmp/pid; read -r line </tmp/go; exit 3")
    });
    let reply = session.first_reply();
    let Reply::Started {
        pid,
        inner_pid: Some(inner),
    } = reply
    else {
        panic!("{reply:?}");
    };
    assert!(read_frame(&mut session.stream).unwrap().is_none());
    drop(session);
    wait_for_file(root.path(), "pid", &format!("{inner}\n"));
    fs::write(&fifo, "go\n").unwrap();
    // It is reaped, too.
    wait_until_gone(pid);
}

#[test]
fn a_process_group_is_signalled_and_killed_as_one() {
    let root = scratch_root();
    let script = "trap 'exit 7' TERM; sh -c 'echo up; exec sleep 3600' & while :; do wait; done";
    for (input, end) in [(Input::SignalGroup(15), code(7)), (Input::Kill, killed(9))] {
        let agent = Agent::start(root.path());
        let mut session = agent.exec(beside(script));
        let shell = session.started();
        session.read_until("up\n");
        let [child] = children(shell)[..] else {
            panic!("not one child");
        };
        session.input(&input);
        assert_eq!(session.rest().end, end);
        wait_until_gone(child.as_raw_nonzero().get().unsigned_abs());
    }
}

#[test]
fn an_image_without_terminals_is_told_so_and_its_files_are_not_taken_for_them() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    let prepare = "umount /dev/pts; mkfifo /dev/pts/ptmx /dev/ptmx";
    assert_eq!(agent.exec(beside(prepare)).outcome().end, code(0));
    let failure = agent.exec(on_terminal("true")).failure();
    assert_eq!(failure.kind, FailureKind::System);
    let message = "cannot open a terminal for the command: No such device";
    assert!(failure.message.starts_with(message), "{}", failure.message);
}
