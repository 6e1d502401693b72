//! The programs that build a kernel: whether all are there, and which compiler it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::KernelBuildError;

/// What runs, and the package of Debian and Ubuntu that has it. In the order in which the build
/// would miss them.
const PROGRAMS: &[(&str, &str)] = &[
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("awk", "mawk"),
    ("gzip", "gzip"),
];

/// Headers of the libraries that the kernel's build programs are linked with (`objtool` reads ELF
/// files; `sign-file` and `extract-cert` are not built), and their packages.
const HEADERS: &[(&str, &str)] = &[("libelf.h", "libelf-dev")];

/// Says which program or library is missing first.
pub(crate) fn check() -> Result<(), KernelBuildError> {
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            return Err(KernelBuildError::MissingTool {
                missing: program,
                package,
            });
        }
    }
    for (header, package) in HEADERS {
        if !compiler_finds(header) {
            return Err(KernelBuildError::MissingTool {
                missing: header,
                package,
            });
        }
    }
    Ok(())
}

/// What of a host's tools gets into a kernel's bytes: compiler and linker with their versions, as
/// their first lines say.
pub(crate) fn identity() -> Result<[String; 2], KernelBuildError> {
    Ok([first_line("gcc", "gcc")?, first_line("ld", "binutils")?])
}

fn first_line(program: &'static str, package: &'static str) -> Result<String, KernelBuildError> {
    let path = find(program).ok_or(KernelBuildError::MissingTool {
        missing: program,
        package,
    })?;
    let unidentified = || KernelBuildError::Unidentified {
        program: path.display().to_string(),
    };
    let output = Command::new(&path)
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|_| unidentified())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().map(str::trim).unwrap_or_default();
    match output.status.success() && !line.is_empty() {
        true => Ok(line.to_owned()),
        false => Err(unidentified()),
    }
}

/// Only the preprocessor knows where it looks.
fn compiler_finds(header: &str) -> bool {
    let status = Command::new("gcc")
        .args(["-E", "-include", header, "-x", "c", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(program));
    places.find(|place| Path::is_file(place))
}
