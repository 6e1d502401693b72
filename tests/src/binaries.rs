//! Paths of the programs under test.
//!
//! They are in `$MICROAGENT_BIN_DIR`, which `make test` sets, or in `dist/` of cargo's target
//! directory, where `make build` installs them as in a release.

use std::path::{Path, PathBuf};

/// The path of the command line.
pub fn microagent() -> PathBuf {
    program("microagent")
}

/// The path of the monitor, a static program.
pub fn supervisor() -> PathBuf {
    program("microagent-supervisor")
}

/// The path of the guest's PID 1, a static program.
pub fn agent() -> PathBuf {
    program("microagent-guest")
}

/// # Panics
///
/// If it has not been built.
fn program(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(
        path.is_file(),
        "{} has not been built: run `make build` first, or set MICROAGENT_BIN_DIR",
        path.display()
    );
    path
}

/// The directory of the programs.
pub fn directory() -> PathBuf {
    match std::env::var_os("MICROAGENT_BIN_DIR") {
        Some(directory) => directory.into(),
        None => profile_directory().with_file_name("dist"),
    }
}

/// A directory for files derived from the programs under test, deleted together with them.
pub(crate) fn scratch() -> PathBuf {
    profile_directory()
        .with_file_name("tmp")
        .join("microagent-tests")
}

/// The path of a helper program of this crate, which cargo builds before its tests.
pub fn of_this_crate(name: &str) -> PathBuf {
    profile_directory().join(name)
}

/// `target/debug`. Test programs are in `target/debug/deps/`, other programs in `target/debug/`.
fn profile_directory() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    let directory = this.parent().unwrap_or(Path::new("."));
    if directory.ends_with("deps") {
        directory.parent().unwrap_or(directory).to_owned()
    } else {
        directory.to_owned()
    }
}
