//! The measuring program as a client.

use std::path::Path;
use std::process::Command;

use microagent_tests::tool;

use crate::Error;

/// The address and port of its server, in whichever network it is.
pub const SERVER: [&str; 2] = ["198.51.100.1", "9000"];

/// Measures from here to a server: what `program` has printed for each of `work`.
///
/// # Errors
/// When the program fails.
pub fn measure(program: &Path, server: [&str; 2], work: &[(&str, u32)]) -> Result<String, Error> {
    let mut printed = String::new();
    for (what, amount) in work {
        let mut command = Command::new(program);
        command.arg(what).args(server).arg(amount.to_string());
        printed += &String::from_utf8_lossy(&tool::output(&mut command)?);
    }
    Ok(printed)
}
