//! Measures whole builds, compared with the tools commonly combined. See docs/benchmarks.md.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::machine::Machine;
use microagent_benches::ours::Microagent;
use microagent_benches::report::Report;
use microagent_benches::subject::Subject;
use microagent_benches::targets::Verdict;
use microagent_benches::{Error, chart, comparison, large};

/// Measures cold, cached and changed builds of an image, compared with skopeo, umoci and mke2fs.
/// Uses the programs of `make build`, or those in $MICROAGENT_BIN_DIR.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of rounds; each measures all builds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Image in an OCI layout [default: the Debian image of the tests]
    #[arg(long, value_name = "LAYOUT:TAG")]
    image: Option<String>,
    /// Also measure peak memory for very large images; needs 25 GiB of disk space
    #[arg(long)]
    large: bool,
    /// Exit with status 1 when a target is missed
    #[arg(long)]
    check: bool,
    /// Write all measurements to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a chart of the results to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace the section between the markers in this file with the results
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(report) => {
            print!("{}", report.text());
            let missed = |verdict| verdict == Verdict::Missed;
            let fails = arguments.check && report.targets.iter().any(|row| missed(row.verdict));
            ExitCode::from(u8::from(fails))
        }
        Err(error) => {
            eprintln!("build-bench: {}", microagent_tests::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<Report, Error> {
    let progress = |line: &str| eprintln!("{line}");
    let machine = Machine::here();
    let work = std::env::temp_dir();
    let home = tempfile::tempdir().map_err(|source| Error::File {
        path: work.clone(),
        source,
    })?;
    let microagent = Microagent::new(home.path());
    let subject = Subject::new(arguments.image.as_deref())?;
    let count = usize::from(arguments.rounds);
    let rounds = comparison::rounds(&microagent, &subject, &work, count, &progress)?;
    let large = match arguments.large {
        true => large::measure(&microagent, &work, &progress)?,
        false => Vec::new(),
    };
    let report = Report::new(machine, &subject.name, rounds, large);
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    if let Some(path) = &arguments.svg {
        chart::draw(&report, path)?;
    }
    if let Some(path) = &arguments.markdown {
        report.write_markdown(path, "make bench")?;
    }
    Ok(report)
}
