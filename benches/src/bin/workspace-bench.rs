//! Measures what workspaces cost. See docs/benchmarks.md.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::Error;
use microagent_benches::machine::Machine;
use microagent_benches::places::Places;
use microagent_benches::workspace::{inside, lab, markdown, native, write_json};
use microagent_tests::built_kernel;

/// Measures create, start and exec of workspaces, in the lab with the deterministic clock and on this
/// host. Uses the programs of `make build`, or those in $MICROAGENT_BIN_DIR.
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
    #[command(flatten)]
    places: Places,
    /// Measure here, with the programs on the search path
    #[arg(long, hide = true, requires = "image", requires = "state")]
    inside: bool,
    /// The image
    #[arg(long, hide = true)]
    image: Option<String>,
    /// The state directory
    #[arg(long, hide = true)]
    state: Option<PathBuf>,
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
    if let (true, Some(image), Some(state)) = (arguments.inside, &arguments.image, &arguments.state)
    {
        let measured = inside::measure(image, state, arguments.rounds)?;
        println!("{}", serde_json::json!(measured));
        return Ok(());
    }
    let host = built_kernel::host()?;
    let mut measured = Vec::new();
    let mut text = format!("`workspace-bench --rounds {}`\n", arguments.rounds);
    if arguments.places.lab() {
        let found = lab::measure(&host, arguments.rounds)?;
        let heading = "In the lab, engine `kvm`, by the deterministic clock";
        text += &format!("\n{}", markdown(heading, &found));
        measured.push(("lab", found));
    }
    if arguments.places.host() {
        let found = native::measure(&host, arguments.rounds)?;
        let heading = native::heading(&Machine::here());
        text += &format!("\n{}", markdown(&heading, &found));
        measured.push(("host", found));
    }
    print!("{text}");
    if let Some(path) = &arguments.json {
        write_json(path, &measured)?;
    }
    if let Some(path) = &arguments.markdown {
        microagent_benches::markdown::put(path, "workspace-bench", &text)?;
    }
    Ok(())
}
