//! Tests that cannot run on this host.
//!
//! Rust's test runner knows no skipping at run time. A test that must skip calls [`record`] and
//! returns; `make test` counts the lines of the file that `$MICROAGENT_SKIPPED` names, takes them
//! off the passed ones, and prints them.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that the current test is skipped, and why.
///
/// # Panics
///
/// When the file that `$MICROAGENT_SKIPPED` names cannot be appended to: a skip that is not
/// counted would pass for a success.
pub fn record(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    // One write each: tests run in several threads.
    if let Some(path) = std::env::var_os("MICROAGENT_SKIPPED") {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("the file of skipped tests can be opened");
        file.write_all(line.as_bytes())
            .expect("the file of skipped tests can be written");
    } else {
        // Not `eprintln!`, which the test runner hides for a test that passes.
        let _ = std::io::stderr().write_all(format!("skipped: {line}").as_bytes());
    }
}

/// Unwraps, or skips the current test with the error as the reason.
///
/// ```text
/// let lab = or_skip!(Lab::new());
/// ```
#[macro_export]
macro_rules! or_skip {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error @ $crate::Error::Missing { .. }) => {
                $crate::skip::record(&error.to_string());
                return;
            }
            Err(error) => panic!("{error}"),
        }
    };
}

/// Whether this process is root. Loop mounts and `umoci unpack` with foreign owners need it.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Skips the current test unless it runs as root.
#[macro_export]
macro_rules! root_or_skip {
    () => {
        if !$crate::skip::is_root() {
            $crate::skip::record("needs root");
            return;
        }
    };
}
