//! Where the other programs of this installation are: the supervisor and the guest agent.
//!
//! Looked for in `$MICROAGENT_LIBEXEC`, beside this executable, and in `../libexec/microagent/`
//! from there, in this order.

use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;

use crate::failure::Failure;

/// The supervisor's file name.
pub const SUPERVISOR: &str = "microagent-supervisor";
/// The guest agent's file name.
pub const AGENT: &str = "microagent-guest";

/// The path of one of them.
///
/// # Errors
/// When it is in none of the places.
pub fn find(program: &str) -> Result<PathBuf, Failure> {
    let places = places();
    let candidates = places.iter().map(|place| place.join(program));
    candidates
        .clone()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let places: Vec<_> = places
                .iter()
                .map(|place| place.display().to_string())
                .collect();
            Failure::new(
                ErrorKind::Host,
                format!(
                    "{program} is not installed; looked in {}",
                    places.join(", ")
                ),
            )
            .remediation(
                "install it beside microagent, or set $MICROAGENT_LIBEXEC to its directory",
            )
        })
}

fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    places.extend(
        std::env::var_os("MICROAGENT_LIBEXEC")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from),
    );
    if let Ok(executable) = std::env::current_exe()
        && let Some(directory) = executable.parent()
    {
        places.push(directory.to_owned());
        places.extend(
            directory
                .parent()
                .map(|prefix| prefix.join("libexec/microagent")),
        );
    }
    places
}

/// A program that was named by a flag.
///
/// # Errors
/// When there is no such file.
pub fn check_program(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.is_file() {
        return std::path::absolute(path).map_err(|error| Failure::caused(ErrorKind::Host, &error));
    }
    Err(Failure::new(
        ErrorKind::NotFound,
        format!("{flag}: there is no program {}", path.display()),
    )
    .remediation(format!("leave {flag} out to use the installed one")))
}
