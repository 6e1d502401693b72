//! Executables that a test writes and then starts.
//!
//! A file that is open for writing in any process cannot be executed (`ETXTBSY`, execve(2)). Tests
//! run concurrently: a child that another test is forking inherits the open file and keeps it open
//! until it calls execve. Executables are therefore written by a separate process that does not
//! fork.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

use crate::error::Error;
use crate::tool;

/// Copies the file at `from` to `to`, with its permissions.
///
/// # Errors
///
/// [`Error::Tool`] if `cp` fails.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
    let both = [from.as_ref(), to.as_ref()];
    tool::run("cp", [&["--".as_ref()], &both[..]].concat())?;
    Ok(())
}

/// Writes `contents` to the file at `path` with the permissions `mode`.
///
/// # Errors
///
/// [`Error::Tool`] if `install` fails, [`Error::File`] if a temporary file cannot be written.
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

/// The sources of [`for_guests`].
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/host/programs");

/// Static programs for guests, in a new directory. `vsyscall` calls the fixed addresses of the
/// vsyscall page, `ia32` is for 32-bit x86: each prints its name and exits with 0. `vsock PORT`
/// sends its standard input to that port of the host, and prints the answer. `spin` lets nothing else
/// run. `net` measures TCP.
///
/// # Errors
///
/// [`Error::Missing`] if there is no C compiler, [`Error::Tool`] if it fails.
pub fn for_guests() -> Result<tempfile::TempDir, Error> {
    let compiler = tool::find("cc")?;
    let made = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    for (source, flags) in [
        ("vsyscall.s", &["-m64", "-nostdlib"][..]),
        ("ia32.s", &["-m32", "-nostdlib"]),
        ("vsock.c", &["-O1", "-s"]),
        ("spin.c", &["-O1", "-s"]),
        ("net.c", &["-O2", "-s"]),
    ] {
        let source = Path::new(SOURCES).join(source);
        let program = made.path().join(source.file_stem().unwrap_or_default());
        let flags = flags.iter().chain(&["-static", "-no-pie", "-o"]);
        let files = [program.into(), source.into()];
        tool::run(
            &compiler.display().to_string(),
            flags.map(OsString::from).chain(files),
        )?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn contents_and_permissions_are_those_requested() {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made");
        write(&made, 0o751, "#!/bin/sh\necho \"$0\"\n").unwrap();
        let copied = directory.path().join("-copied");
        copy(&made, &copied).unwrap();
        for path in [&made, &copied] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o751);
            let output = Command::new(path).output().unwrap();
            let stdout = String::from_utf8(output.stdout).unwrap();
            assert_eq!(stdout, format!("{}\n", path.display()));
        }
    }
}
