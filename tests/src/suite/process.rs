//! Runs one unit: its tests one after the other in one process, each timed.
//!
//! With one thread libtest prints a line when a test has finished, so the time between two lines is
//! the duration of the later test. (libtest's `--report-time` needs a nightly toolchain.)

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use wait4::Wait4;

use super::Unit;
use crate::Error;

/// Time limit for reading the last lines after the exit of a process. A process that a test left
/// behind can keep the pipe open.
const DRAIN: Duration = Duration::from_secs(5);

/// The outcome of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It is marked `#[ignore]` with this reason.
    Ignored(String),
}

/// A finished test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// Its full name in its program.
    pub name: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// Its duration.
    pub elapsed: Duration,
}

/// libtest's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

/// A finished unit.
#[derive(Debug)]
pub struct Finished {
    /// The tests that libtest reported on separate lines. A child process that writes to the same
    /// output can break such a line.
    pub tests: Vec<Test>,
    /// libtest's count in its last line; `None` if the process died before.
    pub count: Option<Count>,
    /// Whether the process exited with 0.
    pub is_success: bool,
    /// Whether it was killed because it reached its time limit.
    pub is_overdue: bool,
    /// Its complete output.
    pub output: String,
    /// The time from start to exit.
    pub elapsed: Duration,
    /// Processor time of the process and of the children it waited for.
    pub processor_time: Duration,
}

/// Runs a unit to completion, or until `limit` has passed: then its process is killed, and with it
/// the labs and servers of its tests (see [`crate::scoped_process`]).
pub(super) fn run(unit: &Unit, limit: Duration) -> Result<Finished, Error> {
    let path = &unit.program.executable;
    let (reader, writer) = io::pipe().map_err(Error::file(path))?;
    let mut command = Command::new(path);
    command
        .args(["--test-threads=1", "--exact"])
        .args(&unit.tests)
        .current_dir(&unit.program.directory)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(Error::file(path))?)
        .stderr(writer);
    let started = Instant::now();
    let mut child = command.spawn().map_err(Error::file(path))?;
    // The command holds write ends of the pipe.
    drop(command);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).into_owned();
            if sender.send((Instant::now(), text)).is_err() {
                return;
            }
            line.clear();
        }
    });
    let is_overdue = !ends_within(&child, limit).map_err(Error::file(path))?;
    let usage = child.wait4().map_err(Error::file(path))?;
    let elapsed = started.elapsed();
    let mut received = Vec::new();
    let deadline = Instant::now() + DRAIN;
    let left = || deadline.saturating_duration_since(Instant::now());
    while let Ok((at, line)) = lines.recv_timeout(left()) {
        let is_last = line.starts_with("test result: ") && usage.status.success();
        received.push((at, line));
        if is_last {
            break;
        }
    }
    let processor_time = usage.rusage.utime + usage.rusage.stime;
    Ok(Finished {
        is_overdue,
        ..finished(
            unit,
            started,
            received,
            usage.status,
            elapsed,
            processor_time,
        )
    })
}

/// Waits until `child` exits. Kills it and returns false if it does not within `limit`.
fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    // The process is not reaped yet, so its id is its own.
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                pidfd_send_signal(&process, Signal::KILL)?;
                return Ok(false);
            }
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn finished(
    unit: &Unit,
    started: Instant,
    lines: Vec<(Instant, String)>,
    status: ExitStatus,
    elapsed: Duration,
    processor_time: Duration,
) -> Finished {
    let mut tests = Vec::new();
    let mut output = String::new();
    let mut before = started;
    for (at, line) in lines {
        output.push_str(&line);
        // libtest repeats the output of a failed test, which may contain reports of other tests.
        if let Some((name, outcome)) = ended(&line)
            && unit.tests.iter().any(|test| test == name)
            && !tests.iter().any(|test: &Test| test.name == name)
        {
            let (name, elapsed) = (name.to_owned(), at - before);
            tests.push(Test {
                name,
                outcome,
                elapsed,
            });
            before = at;
        }
    }
    Finished {
        count: output.lines().rev().find_map(count),
        tests,
        is_success: status.success(),
        is_overdue: false,
        output,
        elapsed,
        processor_time,
    }
}

/// Parses a line of libtest: `test NAME ... ok`, or `FAILED`, or `ignored` with a reason.
fn ended(line: &str) -> Option<(&str, Outcome)> {
    let (name, rest) = line.trim_end().strip_prefix("test ")?.split_once(" ... ")?;
    // Output of a child process may be in between.
    let outcome = if rest.ends_with("ok") {
        Outcome::Passed
    } else if rest.ends_with("FAILED") {
        Outcome::Failed
    } else {
        let reason = rest.strip_prefix("ignored")?;
        Outcome::Ignored(reason.trim_start_matches(", ").to_owned())
    };
    Some((name.trim_end_matches(" - should panic"), outcome))
}

/// Parses a line of libtest: `test result: ok. N passed; N failed; …`.
fn count(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |of: &str| {
        let count = counts
            .split("; ")
            .find_map(|count| count.strip_suffix(of))?;
        count.trim().parse().ok()
    };
    Some(Count {
        passed: number(" passed")?,
        failed: number(" failed")?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::Program;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1000);

    fn unit(script: &str, tests: &[&str]) -> (tempfile::TempDir, Unit) {
        let directory = tempfile::tempdir().unwrap();
        let executable = directory.path().join("program");
        crate::program::write(executable.clone(), 0o755, format!("#!/bin/sh\n{script}\n")).unwrap();
        let program = Program {
            name: "p".into(),
            target: "p".into(),
            executable,
            directory: directory.path().into(),
        };
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        let module = None;
        (
            directory,
            Unit {
                program,
                module,
                tests,
            },
        )
    }

    #[test]
    fn each_line_of_libtest_is_understood() {
        assert_eq!(ended("test a::b ... ok\n"), Some(("a::b", Outcome::Passed)));
        assert_eq!(
            ended("test a - should panic ... ok\n"),
            Some(("a", Outcome::Passed))
        );
        assert_eq!(ended("test a ... FAILED\n"), Some(("a", Outcome::Failed)));
        let ignored = Outcome::Ignored("a part of other tests".into());
        assert_eq!(
            ended("test a ... ignored, a part of other tests\n"),
            Some(("a", ignored))
        );
        for line in [
            "running 1 test",
            "test result: ok. 1 passed",
            "test a ... ",
            "",
        ] {
            assert_eq!(ended(line), None, "{line}");
        }
    }

    #[test]
    fn the_time_between_two_lines_is_the_later_tests() {
        let (_directory, unit) = unit("", &["a", "b", "c"]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let lines = vec![
            (at(1), "running 3 tests\n".to_owned()),
            (at(3), "test a ... ok\n".to_owned()),
            (at(10), "test b ... FAILED\n".to_owned()),
            (at(11), "test b ... FAILED\n".to_owned()),
        ];
        let status = ExitStatus::from_raw(9);
        let second = Duration::from_secs(1);
        let finished = finished(&unit, start, lines, status, second, second);
        let times: Vec<_> = finished
            .tests
            .iter()
            .map(|test| test.elapsed.as_secs())
            .collect();
        assert_eq!(times, [3, 7]);
        assert_eq!((finished.count, finished.is_success), (None, false));
    }

    #[test]
    fn the_last_count_is_the_programs_own() {
        let (_directory, unit) = unit("", &["a", "b"]);
        let start = Instant::now();
        let lines = [
            "test a ... FAILED\n",
            "test result: FAILED. 0 passed; 7 failed; 0 ignored; 0 measured\n",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n",
        ];
        let lines = lines.map(|line| (start, line.to_owned())).to_vec();
        let status = ExitStatus::from_raw(101 << 8);
        let finished = finished(&unit, start, lines, status, Duration::ZERO, Duration::ZERO);
        let expected = Count {
            passed: 1,
            failed: 1,
        };
        assert_eq!(finished.count, Some(expected));
        assert_eq!(finished.tests.len(), 1);
    }

    #[test]
    fn a_process_that_a_test_leaves_behind_does_not_hold_the_suite() {
        let script = "sleep 1000 & echo $! >pid; echo 'test a ... ok'; echo 'test result: ok.'";
        let (directory, unit) = unit(script, &["a"]);
        let finished = run(&unit, LIMIT).unwrap();
        let pid = std::fs::read_to_string(directory.path().join("pid")).unwrap();
        crate::tool::run("kill", [pid.trim()]).unwrap();
        assert!(
            finished.is_success && finished.tests.len() == 1,
            "{finished:?}"
        );
        assert!(finished.elapsed < Duration::from_secs(100));
    }

    #[test]
    fn both_outputs_of_a_unit_are_kept() {
        let (_directory, unit) = unit("echo out; echo err >&2; exit 101", &["a"]);
        let finished = run(&unit, LIMIT).unwrap();
        assert_eq!(finished.output, "out\nerr\n");
        assert_eq!((finished.count, finished.is_success), (None, false));
    }
    #[test]
    fn a_unit_that_does_not_end_is_killed() {
        let (_directory, unit) = unit("echo 'test a ... ok'; exec sleep 1000", &["a", "b"]);
        let finished = run(&unit, Duration::from_secs(1)).unwrap();
        assert!(finished.is_overdue && !finished.is_success);
        assert_eq!((finished.count, finished.tests.len()), (None, 1));
        assert!(finished.elapsed < Duration::from_secs(100));
    }
}
