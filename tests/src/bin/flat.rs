//! Writes the disk of a workspace's guest to one file: `flat STATE-DIR WORKSPACE OUT`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [state, workspace, out] = words.as_slice() else {
        eprintln!("usage: flat STATE-DIR WORKSPACE OUT");
        return ExitCode::from(2);
    };
    match microagent_tests::flat_disk::write(Path::new(state), workspace, Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flat: {error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}
