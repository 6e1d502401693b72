//! The environment variables of a command line: its flags, its files, this process's environment.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use microagent_pipeline::ErrorKind;

use crate::args::EnvironmentArgs;
use crate::failure::{Failure, kind_of};
use crate::request::{Variables, variables::of_caller};

/// The largest file, in bytes: a command's environment has at most 2 MiB.
const MAX_FILE: usize = 4 << 20;

/// Reads what `args` say.
///
/// # Errors
/// A file cannot be read, or a variable is invalid.
pub fn read(args: &EnvironmentArgs) -> Result<Variables, Failure> {
    let mut variables = Variables::default();
    for path in &args.env_file {
        let bytes = read_file(path)?;
        variables.add_file(&path.display().to_string(), &bytes, of_caller)?;
    }
    for word in &args.env {
        variables.add_flag(word, of_caller)?;
    }
    Ok(variables)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() > MAX_FILE => Err(Failure::usage(format!(
            "{} has more than {} MiB",
            path.display(),
            MAX_FILE >> 20
        ))),
        Ok(_) => Ok(bytes),
        Err(error) => {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => kind_of(&error),
            };
            let message = format!("cannot read --env-file {}: {error}", path.display());
            Err(Failure::new(kind, message))
        }
    }
}
