//! Tests of the lab.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use microagent_tests::lab::{Lab, Machine, OUTPUT_LIMIT, Report};
use microagent_tests::{Error, or_skip, tool};

/// Builds the program that runs a vCPU.
fn vcpu() -> Result<(tempfile::TempDir, PathBuf), Error> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("vcpu");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/lab/vcpu.c");
    tool::output(
        Command::new(tool::find("cc")?)
            .args(["-static", "-O1", "-o"])
            .arg(&program)
            .arg(source),
    )?;
    Ok((directory, program))
}

fn boot(machine: Machine) -> Result<Report, Error> {
    let (_directory, program) = vcpu()?;
    let mut lab = Lab::with_machine(machine)?;
    lab.file(&program, "/bin/vcpu")?;
    lab.program(tool::find("stat")?, "/usr/bin/host-stat")?;
    lab.text("from the host\n", "/root/a/b/text", 0o640)?;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("a/empty")).unwrap();
    std::fs::write(directory.path().join("a/file"), "x").unwrap();
    std::os::unix::fs::symlink("a/file", directory.path().join("link")).unwrap();
    lab.directory(directory.path(), "/put/here")?;
    lab.step("vcpu", "vcpu", 30);
    lab.step("directory", "cd /put/here && find . | sort && cat link", 30);
    lab.step("status", "exit 3", 30);
    lab.step("killed", "kill -9 $$", 30);
    lab.step("outputs", "echo out; echo err >&2; printf '\\000\\377'", 30);
    lab.step("shared libraries", "host-stat -c %a:%s /root/a/b/text", 30);
    lab.step("much output", "head -c 10000000 /dev/zero", 60);
    lab.step("too long", "sleep 100", 1);
    lab.step("clean directory", "ls -A; echo x > file", 30);
    lab.step("clean again", "ls -A; pwd", 30);
    lab.boot()
}

/// One boot for all tests of this file.
fn report() -> &'static Result<Report, Error> {
    static REPORT: OnceLock<Result<Report, Error>> = OnceLock::new();
    REPORT.get_or_init(|| boot(Machine::default()))
}

#[test]
fn a_vcpu_runs_sse_instructions() {
    let step = or_skip!(report()).step("vcpu");
    assert_eq!(
        step.text(),
        "api 12\nport 0x10: k\nhalted\n",
        "{}",
        step.errors()
    );
    assert_eq!(step.code, 0);
}

#[test]
fn exit_statuses_are_returned() {
    let report = or_skip!(report());
    assert_eq!(report.step("status").code, 3);
    assert_eq!(report.step("killed").code, 137);
}

#[test]
fn both_outputs_are_returned_unchanged() {
    let step = or_skip!(report()).step("outputs");
    assert_eq!(step.stdout, b"out\n\0\xff");
    assert_eq!(step.stderr, b"err\n");
}

#[test]
fn programs_are_copied_with_their_shared_libraries() {
    let step = or_skip!(report()).step("shared libraries");
    assert_eq!(step.text(), "640:14\n", "{}", step.errors());
}

#[test]
fn a_directory_is_copied_recursively() {
    let step = or_skip!(report()).step("directory");
    assert_eq!(
        step.text(),
        ".\n./a\n./a/empty\n./a/file\n./link\nx",
        "{}",
        step.errors()
    );
}

#[test]
fn output_is_truncated_at_the_limit() {
    let step = or_skip!(report()).step("much output");
    assert_eq!(step.stdout.len(), OUTPUT_LIMIT);
    assert_eq!(step.code, 0);
}

#[test]
fn a_step_that_exceeds_its_time_limit_is_killed() {
    let step = or_skip!(report()).step("too long");
    assert_eq!(step.code, 137);
    assert!(step.elapsed < Duration::from_secs(10), "{:?}", step.elapsed);
}

#[test]
fn each_step_starts_in_an_empty_directory() {
    let report = or_skip!(report());
    assert_eq!(report.step("clean directory").text(), "");
    assert_eq!(report.step("clean again").text(), "/tmp/work\n");
}

#[test]
fn the_deadline_ends_a_lab_that_hangs() {
    let mut lab = or_skip!(Lab::with_machine(Machine {
        deadline: Duration::from_secs(5),
        memory_mib: 512,
        ..Machine::default()
    }));
    lab.step("sleeps", "sleep 1000", 1000);
    let error = lab.boot().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

/// The clock counts instructions, so measurements do not depend on the speed of the host.
#[test]
fn measurements_with_the_deterministic_clock_are_reproducible() {
    let measure = || {
        let mut lab = Lab::with_machine(Machine {
            deterministic_clock: true,
            memory_mib: 512,
            ..Machine::default()
        })?;
        lab.step(
            "loop",
            "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done",
            300,
        );
        Ok::<_, Error>(lab.boot()?.step("loop").elapsed.as_secs_f64())
    };
    let first = or_skip!(measure());
    let second = or_skip!(measure());
    let ratio = first / second;
    assert!((0.9..1.1).contains(&ratio), "{first} s, then {second} s");
}

#[test]
fn a_lab_that_hangs_is_rebooted_and_finally_reported() {
    let mut lab = or_skip!(Lab::with_machine(Machine {
        silence: Duration::from_secs(5),
        ..Machine::default()
    }));
    lab.step("stop", "kill -STOP $(cat /run/beat); sleep 100", 200);
    let error = lab.boot().unwrap_err();
    let Error::LabStalled { processors, .. } = error else {
        panic!("{error}");
    };
    // One processor, sampled three times.
    let places = processors.lines().filter(|line| line.starts_with("RIP="));
    assert_eq!(places.count(), 3, "{processors}");
}

/// With the deterministic clock an identical boot would hang again, so the second one differs.
#[test]
fn with_the_deterministic_clock_a_late_lab_is_rebooted_differently() {
    let mut lab = or_skip!(Lab::with_machine(Machine {
        deterministic_clock: true,
        memory_mib: 512,
        deadline: Duration::from_secs(45),
        ..Machine::default()
    }));
    let script =
        "grep -o 'lab.boot=.*' /proc/cmdline; grep -q lab.boot=2 /proc/cmdline || sleep 9999999";
    lab.step("second", script, 100_000_000);
    let report = lab.boot().unwrap();
    assert_eq!(report.step("second").text(), "lab.boot=2\n");
}
