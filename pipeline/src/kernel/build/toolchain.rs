//! The programs that build a kernel: checks that all are installed, and identifies the compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::KernelBuildError;
use crate::kernel::tool::search_path;

/// The programs, and their packages in Debian and Ubuntu. In the order in which the build needs
/// them.
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

/// Headers of the libraries that the kernel's build programs are linked with, and their packages.
/// `objtool` reads ELF files; `sign-file` and `extract-cert` are not built.
const HEADERS: &[(&str, &str)] = &[("libelf.h", "libelf-dev")];

/// Checks that all programs and libraries are installed; the error names the first missing one.
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

/// The tools of the host that determine a kernel's content: compiler and linker, each as the first
/// line of its version output.
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

/// Asks the preprocessor, because only it knows its search path.
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
    let path = search_path();
    let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|candidate| Path::is_file(candidate))
}
