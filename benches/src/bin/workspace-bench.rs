//! Measures what workspaces cost. See docs/benchmarks.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::Error;
use microagent_benches::workspace::{inside, markdown, measure, write_json};
use microagent_tests::built_kernel;

/// Measures create, start and exec of workspaces in the lab with the deterministic clock. Uses the
/// programs of `make build`, or those in $MICROAGENT_BIN_DIR.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of workspaces
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the measurements and figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace the section between the markers in this file with the results
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Measure here, inside the lab
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workspace-bench: {}", microagent_tests::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.inside {
        let measured =
            inside::measure("oci:/layout:latest", Path::new("/state"), arguments.rounds)?;
        println!("{}", serde_json::json!(measured));
        return Ok(());
    }
    let measured = measure(&built_kernel::host()?, arguments.rounds)?;
    let text = markdown(
        &format!("workspace-bench --rounds {}", arguments.rounds),
        &measured,
    );
    print!("{text}");
    if let Some(path) = &arguments.json {
        write_json(path, &measured)?;
    }
    if let Some(path) = &arguments.markdown {
        microagent_benches::markdown::put(path, "workspace-bench", &text)?;
    }
    Ok(())
}
