//! Measures boots in the lab with the deterministic clock. See docs/benchmarks.md.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use microagent_benches::Error;
use microagent_benches::boot::baseline::{Baseline, TOLERANCE, Verdict};
use microagent_benches::boot::lab::{Measured, Plan, measure};
use microagent_benches::boot::report::{Boots, Report};
use microagent_benches::boot::{chart, perf::Perf};
use microagent_benches::machine::Machine;
use microagent_tests::built_kernel;
use microagent_tests::microagent::Host;

/// Measures the phases of a boot in the lab, with the kernel of `kernel build` and with the
/// distribution's, compared with the other installed monitors. Uses the programs of `make build`,
/// or those in $MICROAGENT_BIN_DIR.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of boots of each kernel
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Memory of the VMs in MiB
    #[arg(long, default_value_t = 256)]
    memory: u32,
    /// Measure only the kernel of `kernel build`
    #[arg(long)]
    only_built: bool,
    /// Do not measure other monitors
    #[arg(long)]
    alone: bool,
    /// Mount cgroups with `favordynmods`, so that creating a VM does not wait for a grace period
    #[arg(long)]
    favordynmods: bool,
    /// Exit with status 1 when a boot of the built kernel takes 3 % longer than in this file
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Store the boot time of the built kernel in this file
    #[arg(long, value_name = "FILE")]
    store_baseline: Option<PathBuf>,
    /// Write all measurements to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write waterfall charts to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace the section between the markers in this file with the results
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// The command as the documentation names it.
const COMMAND: &str = "make bench-boot";
const COMMAND_FAVORDYNMODS: &str = "boot-bench --favordynmods";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("boot-bench: {}", microagent_tests::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Returns false for a regression from the baseline.
fn run(arguments: &Arguments) -> Result<bool, Error> {
    let plan = Plan {
        iterations: arguments.iterations,
        memory_mib: arguments.memory,
        cpus: 1,
        others: !arguments.alone,
        favordynmods: arguments.favordynmods,
    };
    let command = if arguments.favordynmods {
        COMMAND_FAVORDYNMODS
    } else {
        COMMAND
    };
    eprintln!("booting the kernel of kernel build");
    let built = measure(&built_kernel::host()?, plan)?;
    let holds = check(arguments, &built.booted)?;
    let boots_of = |kernel: &str, measured: Measured| Boots {
        kernel: kernel.into(),
        perf: measured.booted,
        restored: measured.restored,
    };
    let mut boots = vec![boots_of("microagent kernel build", built)];
    if !arguments.only_built {
        eprintln!("booting the distribution's kernel");
        let measured = measure(&Host::with_kernel()?, plan)?;
        boots.push(boots_of("the distribution's cloud kernel", measured));
    }
    let report = Report {
        machine: Machine::here(),
        boots,
    };
    print!("{}", report.markdown(command));
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    if let Some(path) = &arguments.svg {
        chart::draw(&report, path)?;
    }
    if let Some(path) = &arguments.markdown {
        report.write_markdown(path, command)?;
    }
    Ok(holds)
}

fn check(arguments: &Arguments, perf: &Perf) -> Result<bool, Error> {
    let now = Baseline::of(perf).ok_or_else(|| Error::Invalid {
        what: "boot",
        why: "the command printed nothing".into(),
    })?;
    if let Some(path) = &arguments.store_baseline {
        now.write(path)?;
    }
    let Some(path) = &arguments.baseline else {
        return Ok(true);
    };
    let stored = Baseline::read(path)?;
    let verdict = stored.compare(&now);
    let (before, after) = (stored.to_first_output_millis, now.to_first_output_millis);
    let what = match verdict {
        Verdict::Fine => "unchanged",
        Verdict::Better => "improvement: store it with --store-baseline",
        Verdict::Worse => "regression",
    };
    eprintln!(
        "to first output: {after:.1} ms, {what} (baseline {before:.1} ms ± {:.1} %, kernel {}; now kernel {})",
        TOLERANCE * 100.0,
        stored.kernel.as_deref().unwrap_or("unknown"),
        now.kernel.as_deref().unwrap_or("unknown"),
    );
    Ok(verdict != Verdict::Worse)
}
