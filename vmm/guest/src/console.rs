//! The console, where the agent reports what it cannot report to the host.

use std::io::Write;

/// Writes one line to the console. Errors are ignored: there is nowhere else to report them.
pub fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "microagent-guest: {line}");
}
