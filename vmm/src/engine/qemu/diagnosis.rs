//! The report on a VM that seems to hang: QEMU's view of it, and the threads of both processes.
//!
//! Size and time are bounded, because QEMU may hang as well. The commands do not change the VM.
//! `info virtio-queue-status` is not used: for a vhost-user device it stops the queue.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use super::process::QemuProcess;
use super::qmp::{CommandError, Commands};

/// The time limit for all commands together.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The maximum size of the output of one command, in bytes.
const OUTPUT_LIMIT: usize = 8 << 10;

/// The maximum numbers of listed devices and threads.
const MAX_DEVICES: usize = 16;
const MAX_THREADS: usize = 64;

/// Reports on `devices` (their state in this process), QEMU's machine, and the threads of both
/// processes.
pub(super) fn report(devices: &[String], process: &mut QemuProcess) -> String {
    let mut text = format!("devices:\n{}\n", devices.join("\n"));
    let deadline = Instant::now() + TIMEOUT;
    let pid = process.pid().to_string();
    if let Some(commands) = process.commands()
        && let Err(error) = machine(&mut text, commands, deadline)
    {
        section(&mut text, "qemu", &error.to_string());
    }
    section(&mut text, "threads of QEMU", &threads(&pid));
    section(&mut text, "threads of the supervisor", &threads("self"));
    text
}

fn machine(
    text: &mut String,
    commands: &mut Commands,
    deadline: Instant,
) -> Result<(), CommandError> {
    let mut run = |command: &str, keep: fn(&str) -> bool| {
        let output = match commands.human(command, deadline) {
            Ok(output) => output,
            // This version of QEMU does not have the command.
            Err(CommandError::Refused(reason)) => reason,
            Err(error) => return Err(error),
        };
        let lines = output.lines().map(str::trim_end);
        let kept: Vec<&str> = lines.filter(|line| keep(line)).collect();
        let kept = kept.join("\n");
        section(text, command, &kept);
        Ok(kept)
    };
    run("info status", not_empty)?;
    run("info registers -a", is_integer_state)?;
    run("info lapic", not_empty)?;
    run("info pic", is_unmasked)?;
    let devices = run("info virtio", not_empty)?;
    for device in devices.lines().take(MAX_DEVICES) {
        if let Some(path) = device
            .split_whitespace()
            .next()
            .filter(|path| path.starts_with('/'))
        {
            run(&format!("info virtio-status {path}"), is_driver_state)?;
        }
    }
    // The second sample shows whether the vCPUs make progress.
    run("info registers -a", is_instruction_pointer)?;
    Ok(())
}

fn not_empty(line: &str) -> bool {
    !line.is_empty()
}

/// Leaves out floating-point, vector and debug registers.
fn is_integer_state(line: &str) -> bool {
    let others = ["FCW=", "FPR", "XMM", "YMM", "ZMM", "Opmask", "DR"];
    not_empty(line) && !others.iter().any(|other| line.starts_with(other))
}

fn is_instruction_pointer(line: &str) -> bool {
    ["CPU#", "RIP=", "EIP="]
        .iter()
        .any(|start| line.starts_with(start))
}

/// Leaves out the pins of the I/O APIC that the guest does not use.
fn is_unmasked(line: &str) -> bool {
    not_empty(line) && !line.contains(" masked ")
}

/// Keeps the state of the device and of its driver, and leaves out the lists of features.
fn is_driver_state(line: &str) -> bool {
    let line = line.trim_start();
    [
        "device_name:",
        "vhost_started:",
        "broken:",
        "started:",
        "isr:",
        "status:",
        "VIRTIO_CONFIG_S_",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

fn section(text: &mut String, title: &str, body: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{title}:");
    let body = body.trim_end();
    let mut ends = (0..=OUTPUT_LIMIT.min(body.len())).rev();
    let end = ends.find(|&end| body.is_char_boundary(end)).unwrap_or(0);
    text.push_str(&body[..end]);
    if end < body.len() {
        let _ = write!(text, "\n({} bytes left out)", body.len() - end);
    }
    text.push('\n');
}

/// The threads of a process (proc(5)): name, state, CPU time, and the kernel function in which each
/// waits.
fn threads(process: &str) -> String {
    let root = format!("/proc/{process}/task");
    let read = |thread: &str, file: &str| {
        fs::read_to_string(format!("{root}/{thread}/{file}")).unwrap_or_default()
    };
    let Ok(tasks) = fs::read_dir(&root) else {
        return "unknown".to_owned();
    };
    let mut lines = Vec::new();
    for task in tasks.flatten().take(MAX_THREADS) {
        let id = task.file_name().to_string_lossy().into_owned();
        let stat = read(&id, "stat");
        if let Some((name, state, ticks)) = parse_stat(&stat) {
            let place = read(&id, "wchan");
            lines.push(format!(
                "{id} {name}: state {state}, {ticks} ticks, in {place}"
            ));
        }
    }
    lines.join("\n")
}

/// A thread's name, state, and CPU time in clock ticks, from `/proc/PID/task/TID/stat`.
fn parse_stat(stat: &str) -> Option<(&str, &str, u64)> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    // `utime` and `stime` are fields 14 and 15; the state is field 3.
    let mut times = fields.skip(10).map(str::parse::<u64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((name, state, user.saturating_add(system)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_described_whatever_its_name_is() {
        let stat = "17 (CPU 0/TCG) x) R 1 17 17 0 -1 4194368 9 0 0 0 120 5 0 0 20 0 4 0 88";
        assert_eq!(parse_stat(stat), Some(("CPU 0/TCG) x", "R", 125)));
        assert_eq!(parse_stat("17 (x) R 1"), None);
        assert_eq!(parse_stat(""), None);
        assert!(threads("self").contains("state "), "{}", threads("self"));
        assert_eq!(threads("no-process"), "unknown");
    }

    #[test]
    fn an_output_is_cut_at_its_limit() {
        let mut text = String::new();
        section(&mut text, "info x", &"é".repeat(OUTPUT_LIMIT));
        assert!(text.len() < OUTPUT_LIMIT + 100);
        assert!(
            text.ends_with("\n(8192 bytes left out)\n"),
            "{}",
            &text[OUTPUT_LIMIT..]
        );
    }

    #[test]
    fn irrelevant_lines_are_left_out() {
        assert!(is_integer_state(
            "RIP=ffffffff81000000 RFL=00000246 [---Z-P-]"
        ));
        assert!(is_integer_state("CPU#0"));
        assert!(!is_integer_state("XMM00=0000000000000000 0000000000000000"));
        assert!(!is_integer_state(
            "DR6=00000000ffff0ff0 DR7=0000000000000400"
        ));
        assert!(is_unmasked(
            "  pin 4  0x24 dest=0 vec=36 active-hi edge         fixed  physical"
        ));
        assert!(!is_unmasked(
            "  pin 0  0x10000 dest=0 vec=0 active-hi edge  masked fixed  physical"
        ));
        assert!(is_driver_state("  vhost_started:           true"));
        assert!(!is_driver_state(
            "\tVIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled,"
        ));
    }
}
