//! Locates the other programs of this installation: the supervisor and the guest agent.
//!
//! They are searched in `$MICROAGENT_LIBEXEC`, in the directory of this executable, and in
//! `../libexec/microagent/` relative to it, in this order.

use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;

use crate::failure::Failure;

/// The supervisor's file name.
pub const SUPERVISOR: &str = "microagent-supervisor";
/// The guest agent's file name.
pub const AGENT: &str = "microagent-guest";

/// The path of `program`.
///
/// # Errors
/// When none of the directories has it.
pub fn find(program: &str) -> Result<PathBuf, Failure> {
    let directories = directories();
    let candidates = directories.iter().map(|directory| directory.join(program));
    candidates
        .clone()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let directories: Vec<_> = directories
                .iter()
                .map(|directory| directory.display().to_string())
                .collect();
            Failure::new(
                ErrorKind::Host,
                format!(
                    "{program} is not installed; searched in {}",
                    directories.join(", ")
                ),
            )
            .remediation(
                "install it beside microagent, or set $MICROAGENT_LIBEXEC to its directory",
            )
        })
}

fn directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    directories.extend(
        std::env::var_os("MICROAGENT_LIBEXEC")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from),
    );
    if let Some(executable) = executable()
        && let Some(directory) = executable.parent()
    {
        directories.push(directory.to_owned());
        directories.extend(
            directory
                .parent()
                .map(|prefix| prefix.join("libexec/microagent")),
        );
    }
    directories
}

/// The path of this executable. Without /proc, that of its name, as the shell found it.
fn executable() -> Option<PathBuf> {
    std::env::current_exe().ok().or_else(|| {
        let name = PathBuf::from(std::env::args_os().next()?);
        if name.components().count() > 1 {
            return std::path::absolute(name).ok();
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        let mut candidates = std::env::split_paths(&path).map(|directory| directory.join(&name));
        candidates.find(|candidate| candidate.is_file())
    })
}

/// The absolute path of a program given with `flag`.
///
/// # Errors
/// When it is not a regular file.
pub fn check_program(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.is_file() {
        return std::path::absolute(path).map_err(|error| Failure::caused(ErrorKind::Host, &error));
    }
    Err(Failure::new(
        ErrorKind::NotFound,
        format!("{flag}: {} is not a regular file", path.display()),
    )
    .remediation(format!("omit {flag} to use the installed program")))
}
