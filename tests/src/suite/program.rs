//! The test programs that cargo has built.

use std::io::BufRead;
use std::path::PathBuf;

use serde::Deserialize;

use crate::Error;

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name in the report: the package without `microagent-`, and the target.
    pub name: String,
    /// The name of cargo's target.
    pub target: String,
    /// The file to execute.
    pub executable: PathBuf,
    /// The package's directory, in which cargo runs tests.
    pub directory: PathBuf,
}

/// A line of `cargo test --no-run --message-format json`. Lines of other kinds lack some fields.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

impl Program {
    /// Parses the output of cargo.
    ///
    /// # Errors
    /// If a line is not in cargo's JSON format, or there is no test program.
    pub fn read(input: impl BufRead) -> Result<Vec<Program>, Error> {
        let mut programs = Vec::new();
        for line in input.lines() {
            let line = line.map_err(Error::file("standard input"))?;
            let message: Message = serde_json::from_str(&line).map_err(|error| {
                let what = format!("cargo's message: {error}");
                Error::Unexpected { what, got: line }
            })?;
            programs.extend(message.program());
        }
        if programs.is_empty() {
            return Err(Error::Unexpected {
                what: "cargo lists no test program".into(),
                got: String::new(),
            });
        }
        Ok(programs)
    }
}

impl Message {
    fn program(self) -> Option<Program> {
        let (executable, target) = (self.executable?, self.target?);
        if !self.profile?.test {
            return None;
        }
        let directory = self.manifest_path.parent()?.to_owned();
        let package = directory.file_name()?.to_string_lossy().into_owned();
        // Unit tests are named after the crate.
        let name = if target.name.replace('-', "_").starts_with("microagent") {
            package
        } else {
            format!("{package} {}", target.name)
        };
        Some(Program {
            name,
            target: target.name,
            executable,
            directory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let lines = r#"{"reason":"compiler-artifact","manifest_path":"/w/cas/Cargo.toml","target":{"kind":["lib"],"name":"microagent_cas"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/cas/Cargo.toml","target":{"kind":["lib"],"name":"microagent_cas"},"profile":{"test":true},"executable":"/t/cas-1"}
{"reason":"compiler-artifact","manifest_path":"/w/cli/Cargo.toml","target":{"kind":["bin"],"name":"microagent"},"profile":{"test":false},"executable":"/t/microagent"}
{"reason":"compiler-artifact","manifest_path":"/w/cas/Cargo.toml","target":{"kind":["test"],"name":"store"},"profile":{"test":true},"executable":"/t/store-2"}
{"reason":"build-finished","success":true}
"#;
        let programs = Program::read(lines.as_bytes()).unwrap();
        let found: Vec<_> = programs
            .iter()
            .map(|program| (program.name.as_str(), program.executable.to_str().unwrap()))
            .collect();
        assert_eq!(found, [("cas", "/t/cas-1"), ("cas store", "/t/store-2")]);
        assert_eq!(programs[1].directory, PathBuf::from("/w/cas"));
    }

    #[test]
    fn output_without_programs_is_an_error() {
        assert!(Program::read(&b""[..]).is_err());
        assert!(Program::read(&b"warning: unused\n"[..]).is_err());
    }
}
