//! Runs one process to completion and measures it.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use wait4::Wait4;

use crate::Error;

/// The cost of a process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Wall time from before its start until its exit, in milliseconds.
    pub wall_millis: f64,
    /// User and system CPU time including waited-for children, in milliseconds.
    pub cpu_millis: f64,
    /// Maximum resident set size of the process or a waited-for child, in bytes. It is never less
    /// than the size of this process at the fork, so this process must stay small.
    pub peak_rss: u64,
}

/// Runs a command without input; returns its cost and its standard output.
///
/// # Errors
/// When the command cannot be started or fails.
pub fn run(command: &mut Command) -> Result<(Cost, Vec<u8>), Error> {
    let shown = format!("{command:?}");
    let program = format!("{:?}", command.get_program());
    let failed = |source| Error::Start {
        command: program.clone(),
        source,
    };
    // Files, not pipes: reading a pipe would affect the measurement.
    let (mut stdout, mut stderr) = (
        tempfile::tempfile().map_err(failed)?,
        tempfile::tempfile().map_err(failed)?,
    );
    let outputs = (
        stdout.try_clone().map_err(failed)?,
        stderr.try_clone().map_err(failed)?,
    );
    command
        .stdin(Stdio::null())
        .stdout(outputs.0)
        .stderr(outputs.1);
    // So that the command does not wait for earlier writes.
    rustix::fs::sync();
    let started = Instant::now();
    let waited = command.spawn().and_then(|mut child| child.wait4());
    let wall = started.elapsed();
    let used = waited.map_err(failed)?;
    if !used.status.success() {
        return Err(Error::Ended {
            command: shown,
            status: used.status,
            stderr: text(&mut stderr).map_err(failed)?,
        });
    }
    let mut output = Vec::new();
    stdout.rewind().map_err(failed)?;
    stdout.read_to_end(&mut output).map_err(failed)?;
    let cost = Cost {
        wall_millis: millis(wall),
        cpu_millis: millis(used.rusage.utime + used.rusage.stime),
        peak_rss: used.rusage.maxrss,
    };
    Ok((cost, output))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    let tail = bytes.len().saturating_sub(2000);
    Ok(String::from_utf8_lossy(&bytes[tail..]).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn peak_memory_counts_touched_memory_only() {
        let peak = |script| run(&mut shell(script)).unwrap().0.peak_rss;
        // dd fills a buffer of this size.
        let large = peak("exec dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null");
        assert!((64 << 20..80 << 20).contains(&large), "{large}");
        let small = peak("exec dd if=/dev/zero of=/dev/null bs=1M count=1 2>/dev/null");
        assert!(small < 32 << 20, "{small}");
    }

    #[test]
    fn sleeping_takes_wall_time_and_computing_takes_cpu_time() {
        let (waiting, _) = run(&mut shell("exec sleep 0.2")).unwrap();
        assert!(waiting.wall_millis >= 200.0, "{waiting:?}");
        assert!(waiting.cpu_millis < 100.0, "{waiting:?}");
        let (working, output) = run(&mut shell("head -c 300M /dev/zero | sha256sum")).unwrap();
        assert!(working.cpu_millis > 50.0, "{working:?}");
        assert_eq!(output.len(), 68);
    }

    #[test]
    fn a_failing_program_is_an_error() {
        let error = run(&mut shell("echo why >&2; exit 3")).unwrap_err();
        assert!(
            error.to_string().ends_with("exit status: 3: why"),
            "{error}"
        );
        let error = run(&mut Command::new("/nonexistent")).unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
    }
}
