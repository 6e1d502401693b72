//! Tests that cannot run on this host.
//!
//! Rust's test runner does not support skipping at run time. A test that must skip calls [`record`]
//! and returns; `make test` prints the lines of the file `$MICROAGENT_SKIPPED` and subtracts their
//! number from the passed tests.

use std::fs::OpenOptions;
use std::io::Write;

/// Records that the current test is skipped, with the reason.
///
/// # Panics
///
/// If the file `$MICROAGENT_SKIPPED` cannot be written: an unrecorded skip would count as passed.
pub fn record(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    // A single write, because tests run in several threads.
    if let Some(path) = std::env::var_os("MICROAGENT_SKIPPED") {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .expect("the file of skipped tests can be opened");
        file.write_all(line.as_bytes())
            .expect("the file of skipped tests can be written");
    } else {
        // The test runner hides the output of `eprintln!` if the test passes.
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

/// Whether this process runs as root, which loop mounts and `umoci unpack` with file owners need.
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
