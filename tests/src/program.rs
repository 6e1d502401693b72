//! Programs that a test makes and then starts.
//!
//! A file that somebody holds open for writing cannot be started (`ETXTBSY`, execve(2)). A test
//! that has other tests beside it cannot close a file alone: a child that another test is just
//! forking holds it open as well, until it executes. So the file that is started is written by a
//! process of its own, which forks nobody.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

use crate::error::Error;
use crate::tool;

/// Copies the file at `from` to `to`, with its permissions.
///
/// # Errors
///
/// [`Error::Tool`] when `cp` fails.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
    let both = [from.as_ref(), to.as_ref()];
    tool::run("cp", [&["--".as_ref()], &both[..]].concat())?;
    Ok(())
}

/// Writes `contents` to the file at `path`, with the permissions `mode`.
///
/// # Errors
///
/// [`Error::Tool`] when `install` fails, [`Error::File`] when the directory of temporary files
/// takes no file.
pub fn write(path: impl AsRef<Path>, mode: u32, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    let directory = std::env::temp_dir();
    let mut draft = tempfile::NamedTempFile::new().map_err(Error::file(&directory))?;
    draft
        .write_all(contents.as_ref())
        .map_err(Error::file(draft.path()))?;
    let mode = OsString::from(format!("--mode={mode:o}"));
    let arguments: [&OsStr; 4] = [
        &mode,
        "--".as_ref(),
        draft.path().as_ref(),
        path.as_ref().as_ref(),
    ];
    tool::run("install", arguments)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_has_the_contents_and_permissions_that_were_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made");
        write(&made, 0o751, "#!/bin/sh\necho \"$0\"\n").unwrap();
        let copied = directory.path().join("-copied");
        copy(&made, &copied).unwrap();
        for path in [&made, &copied] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o751);
            let output = Command::new(path).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, format!("{}\n", path.display()));
        }
    }
}
