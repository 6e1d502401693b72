//! The state of a stalled lab's processors, from QEMU's monitor.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How often the registers are read: a processor that loops is then seen at several addresses.
const READS: usize = 3;

/// Time limit for the rest of a response.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum length of a response, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// Instruction pointer, flags and pending interrupts of each processor, read several times; the
/// error if the monitor does not respond.
pub(super) fn registers(socket: &Path) -> String {
    match UnixStream::connect(socket).and_then(ask) {
        Ok(response) => relevant(&response),
        Err(error) => format!("QEMU's monitor: {error}"),
    }
}

fn ask(mut monitor: UnixStream) -> std::io::Result<String> {
    monitor.set_read_timeout(Some(TIMEOUT))?;
    let mut response = Vec::new();
    for _ in 0..READS {
        monitor.write_all(b"info registers -a\ninfo lapic\n")?;
        let mut chunk = [0; 4096];
        while response.len() < MAX_RESPONSE {
            match monitor.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => response.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// The relevant lines: the monitor also echoes its input and prints all registers.
fn relevant(response: &str) -> String {
    const WORDS: [&str; 6] = ["CPU#", "RIP=", "CR3=", "ISR", "IRR", "Timer"];
    let lines = response.lines().map(str::trim);
    let lines = lines.filter(|line| WORDS.iter().any(|word| line.starts_with(word)));
    lines.collect::<Vec<_>>().join("\n")
}
