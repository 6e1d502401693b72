//! Measures the disk throughput of guests, compared with QEMU. See docs/benchmarks.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::Error;
use microagent_benches::disk::guest::guest;
use microagent_benches::disk::monitor::{Monitor, disk, measure};
use microagent_benches::disk::report::{Comparison, markdown};
use microagent_benches::disk::{host, lab};
use microagent_benches::guest::Guest;
use microagent_benches::places::Places;

/// Measures how fast a guest reads and writes a raw file through our block device and through
/// QEMU's, alternately: with KVM in the lab, and without KVM on this host.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of boots of each monitor
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Data transferred in each measurement, in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    mib: u32,
    #[command(flatten)]
    places: Places,
    /// Also measure once in the lab with the deterministic clock, for reproducible results
    #[arg(long)]
    icount: bool,
    /// Replace the section between the markers in this file with the results
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Boot once with this monitor, inside the lab
    #[arg(long, hide = true)]
    inside: Option<Monitor>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk-bench: {}", microagent_tests::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let Arguments { rounds, mib, .. } = *arguments;
    if let Some(monitor) = arguments.inside {
        let guest = Guest::in_lab();
        // The lab's root is in memory.
        let rates = measure(monitor, &guest, &disk(Path::new("/tmp"), mib)?)?;
        println!("{rates:?}");
        return Ok(());
    }
    let guest = guest(mib)?;
    let mut comparisons = Vec::new();
    if arguments.places.lab() {
        comparisons.push(Comparison {
            title: "In the lab, engine `kvm` compared with QEMU's microvm with KVM".into(),
            rounds: lab::measure(&guest, mib, rounds, false)?,
        });
    }
    if arguments.icount {
        comparisons.push(Comparison {
            title: "The same with the deterministic clock (1000 instructions of host and guest \
                    are a microsecond)"
                .into(),
            rounds: lab::measure(&guest, mib, 1, true)?,
        });
    }
    if arguments.places.host() {
        comparisons.push(Comparison {
            title: "On this host, engine `qemu` compared with QEMU's microvm without KVM".into(),
            rounds: host::measure(&guest, mib, rounds)?,
        });
    }
    let command = format!("disk-bench --rounds {rounds} --mib {mib}");
    let text = markdown(&command, &comparisons);
    print!("{text}");
    if let Some(path) = &arguments.markdown {
        microagent_benches::markdown::put(path, "disk-bench", &text)?;
    }
    Ok(())
}
