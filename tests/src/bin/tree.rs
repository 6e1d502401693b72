//! Prints the listing of a file tree: `tree DIRECTORY`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("usage: tree DIRECTORY");
        return ExitCode::from(2);
    };
    match microagent_tests::tree::list(Path::new(&root)) {
        Ok(lines) => {
            let mut text = lines.join("\n");
            text.push('\n');
            match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("tree: {error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}
