//! Measures the network of guests, compared with QEMU. See docs/benchmarks.md.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::Error;
use microagent_benches::net::figures::Amounts;
use microagent_benches::net::measured::{Inside, Task};
use microagent_benches::net::monitor::Monitor;
use microagent_benches::net::report::{Comparison, markdown, write_json};
use microagent_benches::net::{lab, namespace};
use microagent_benches::places::Places;

/// Measures how fast a guest sends and receives through our network device and through QEMU's,
/// alternately, with the same `passt`; a published port; and what a network adds to `run`: without
/// KVM on this host, in network namespaces of its own, and with KVM in the lab with the
/// deterministic clock. Needs root. Uses the programs of `make build`, or those in
/// $MICROAGENT_BIN_DIR.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of boots of each monitor, and of runs of each command
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Data transferred in each measurement, in MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1024))]
    mib: u32,
    /// Write the measurements to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace the section between the markers in this file with the results
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// Boot only with this monitor, and measure nothing else
    #[arg(long)]
    only: Option<Monitor>,
    #[command(flatten)]
    inside: Inside,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("net-bench: {}", microagent_tests::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let Arguments { rounds, mib, .. } = *arguments;
    let task = Task {
        rounds,
        amounts: Amounts::of(mib),
        only: arguments.only,
    };
    if arguments.inside.inside.is_some() {
        let measured = task.measure(&arguments.inside)?;
        println!("{}", serde_json::json!(measured));
        return Ok(());
    }
    let mut comparisons = Vec::new();
    if arguments.places.lab() {
        comparisons.push(Comparison {
            title: "In the lab with the deterministic clock (1000 instructions of host and guest \
                    are a microsecond), engine `kvm` compared with QEMU's microvm with KVM"
                .into(),
            measured: lab::run(task.in_lab())?,
        });
    }
    if arguments.places.host() {
        comparisons.push(Comparison {
            title: "On this host, engine `qemu` compared with QEMU's microvm without KVM".into(),
            measured: namespace::run(task)?,
        });
    }
    let text = markdown(
        &format!("net-bench --rounds {rounds} --mib {mib}"),
        &comparisons,
    );
    print!("{text}");
    if let Some(path) = &arguments.json {
        write_json(path, &comparisons)?;
    }
    if let Some(path) = &arguments.markdown {
        microagent_benches::markdown::put(path, "net-bench", &text)?;
    }
    Ok(())
}
