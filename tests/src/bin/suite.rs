//! Runs the test programs that cargo has built, several at once, and reports their times.
//!
//! `cargo test --no-run --message-format json | suite [--processors N] [NAME]…`
//!
//! `suite --prepare` fills the cache of the tests, so that no test has to.
//!
//! `$MICROAGENT_TEST_DEADLINE`, in seconds since the epoch, is when tests that still run are stopped
//! and the report is printed.
//!
//! With names, runs only tests whose line in the report contains one of them. See `docs/testing.md`.

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use microagent_tests::suite::{self, Program, Summary};
use microagent_tests::{Error, built_kernel, image, lab};

/// Number of slowest tests in the report.
const SLOWEST: usize = 20;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("suite: {}", microagent_tests::error_chain(&*error));
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<bool, Box<dyn std::error::Error>> {
    let mut processors = available_parallelism()?.get();
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--prepare" {
            return prepare().map(|()| true).map_err(Into::into);
        } else if argument == "--processors" {
            let value = arguments.next().ok_or("--processors needs a number")?;
            processors = value.parse::<usize>()?.max(1);
        } else {
            names.push(argument);
        }
    }
    let mut units = suite::units(Program::read(std::io::stdin().lock())?)?;
    if !names.is_empty() {
        for unit in &mut units {
            unit.keep(|test| names.iter().any(|name| test.contains(name)));
        }
        units.retain(|unit| !unit.tests.is_empty());
    }
    let mut summary = Summary::default();
    suite::run(units, processors, deadline()?, |unit, finished| {
        println!("{}", summary.add(unit, &finished));
        if !finished.is_success {
            // Indented, so that its results are not counted with those of the suite.
            for line in finished.output.lines() {
                println!("    {line}");
            }
        }
    })?;
    println!("the {SLOWEST} slowest tests:");
    for line in summary.slowest(SLOWEST) {
        println!("{line}");
    }
    println!("{summary}");
    Ok(summary.is_success())
}

/// The time of `$MICROAGENT_TEST_DEADLINE`.
fn deadline() -> Result<Option<Instant>, Box<dyn std::error::Error>> {
    let Some(at) = std::env::var_os("MICROAGENT_TEST_DEADLINE") else {
        return Ok(None);
    };
    let at = at.to_str().and_then(|at| at.parse().ok());
    let at = UNIX_EPOCH + Duration::from_secs(at.ok_or("$MICROAGENT_TEST_DEADLINE: no number")?);
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Ok(Some(Instant::now() + left))
}

/// Fills the cache. Entries that this host cannot create are reported by the tests that need them.
fn prepare() -> Result<(), Error> {
    report("the lab's kernel", lab::kernel().map(drop))?;
    report("the Debian image", image::debian().map(drop))?;
    report("the image of network clients", image::clients().map(drop))?;
    report("the kernel of kernel build", built_kernel::host().map(drop))
}

fn report(name: &str, made: Result<(), Error>) -> Result<(), Error> {
    match made {
        Ok(()) => println!("{name}: in the cache"),
        Err(error @ Error::Missing { .. }) => println!("{name}: {error}"),
        Err(error) => return Err(error),
    }
    Ok(())
}
