//! What the processors of a lab do that stands still, as QEMU's monitor tells it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How often is looked: a processor that loops is then seen at several places.
const LOOKS: usize = 3;

/// How long is waited for the rest of an answer.
const PAUSE: Duration = Duration::from_millis(500);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Where each processor is, its flags, and which interrupts it has not yet taken, some times over;
/// why not, if the monitor does not answer.
pub(super) fn look(socket: &Path) -> String {
    match UnixStream::connect(socket).and_then(ask) {
        Ok(answer) => telling(&answer),
        Err(error) => format!("QEMU's monitor: {error}"),
    }
}

fn ask(mut monitor: UnixStream) -> std::io::Result<String> {
    monitor.set_read_timeout(Some(PAUSE))?;
    let mut answer = Vec::new();
    for _ in 0..LOOKS {
        monitor.write_all(b"info registers -a\ninfo lapic\n")?;
        let mut chunk = [0; 4096];
        while answer.len() < MAX_ANSWER {
            match monitor.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => answer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The lines that matter: the monitor also echoes, and tells all registers.
fn telling(answer: &str) -> String {
    const WORDS: [&str; 6] = ["CPU#", "RIP=", "CR3=", "ISR", "IRR", "Timer"];
    let lines = answer.lines().map(str::trim);
    let lines = lines.filter(|line| WORDS.iter().any(|word| line.starts_with(word)));
    lines.collect::<Vec<_>>().join("\n")
}
