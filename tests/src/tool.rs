//! Runs external programs to completion.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, tail};

/// Finds a program in `$PATH`, `/usr/sbin` and `/sbin`; a user's `$PATH` may lack the latter two.
pub fn find(program: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::Missing {
            program: program.to_owned(),
        })
}

/// Runs a program with an empty standard input and returns its standard output.
///
/// # Errors
///
/// [`Error::Missing`] if it is not installed, [`Error::Tool`] if it fails.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<Vec<u8>, Error> {
    let mut command = Command::new(find(program)?);
    command.args(arguments);
    output(&mut command)
}

/// Like [`run`], for a prepared command.
pub fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let shown = format!("{command:?}");
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(Error::file(command.get_program()))?;
    if !output.status.success() {
        return Err(Error::Tool {
            command: shown,
            status: output.status,
            stderr: tail(&output.stderr, 2000),
        });
    }
    Ok(output.stdout)
}

/// Like [`run`], with the output as trimmed text.
pub fn text<A: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String, Error> {
    let output = run(program, arguments)?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}
