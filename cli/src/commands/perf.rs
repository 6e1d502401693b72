//! `microagent perf boot`.

use std::ffi::OsString;

use microagent_pipeline::{ErrorKind, Image, Initramfs, Kernel, Pipeline};
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::prepare::installed_kernel;

use super::pipeline;
use super::warm::take_snapshot;
use crate::args::{PerfBootArgs, RunArgs, WarmArgs};
use crate::document::{ImageDocument, KernelDocument};
use crate::engine;
use crate::failure::Failure;
use crate::install;
use crate::perf::iteration::{self, Iteration};
use crate::perf::monitors::{self, Guest, Monitor, Ours};
use crate::perf::report::Report;
use crate::perf::waterfall;
use crate::request::{RunRequest, Variables, resources};
use crate::settings::Settings;
use crate::termination::Termination;

/// Maximum number of iterations; bounds the memory for their times.
const MAX_ITERATIONS: u32 = 10_000;

/// Boots repeatedly and prints the report.
pub fn boot(
    args: PerfBootArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let iterations = iterations(&args.iterations)?;
    let request = RunRequest::check(
        RunArgs {
            image: Some(args.image.clone()),
            exec: Some(args.exec.clone()),
            machine: args.machine.clone(),
            ..RunArgs::default()
        },
        Variables::default(),
        resources::host_cpus(),
        settings.network,
    )?;
    let choice = engine::choose_with_notice(settings)?;
    iteration::become_subreaper()?;
    if args.warm {
        let given = WarmArgs {
            machine: args.machine.clone(),
            network: None,
        };
        take_snapshot(&given, settings, termination)?;
    }
    let run_args = run_args(&args, &request, choice.engine.name(), settings);
    let mut done = Vec::new();
    for turn in 0..=iterations {
        let measured = iteration::measure(&run_args)?;
        if measured.restored != args.warm {
            let message = "a run booted instead of being restored: `microagent -v run` says why";
            return Err(Failure::new(ErrorKind::Host, message));
        }
        // The first run is a warm-up: it pulls the image, installs the kernel and warms the caches.
        if turn > 0 {
            done.push(measured);
        }
    }

    let pipeline = pipeline::open(settings, termination)?;
    let booted = Booted::look_up(&pipeline, &request)?;
    let monitors = if args.alone {
        Vec::new()
    } else {
        compare(
            &booted,
            &request,
            iterations,
            choice.engine,
            settings,
            termination,
        )?
    };
    let report = Report {
        engine: choice.engine.name(),
        image: ImageDocument::new(&booted.image),
        kernel: KernelDocument::new(&booted.kernel, request.kernel.clone()),
        resources: request.resources,
        iterations,
        parts: waterfall::parts(&done),
        totals: totals(&done)?,
        monitors,
    };
    if settings.output.json {
        settings.output.document(&report)?;
    } else {
        settings.output.text(&report.text())?;
    }
    Ok(0)
}

fn iterations(text: &str) -> Result<u32, Failure> {
    match text.parse() {
        Ok(count @ 1..=MAX_ITERATIONS) => Ok(count),
        _ => Err(
            Failure::usage(format!("--iterations {text:?} is not a valid count"))
                .remediation(format!("use a whole number from 1 to {MAX_ITERATIONS}")),
        ),
    }
}

/// The arguments of the measured `microagent run`.
fn run_args(
    args: &PerfBootArgs,
    request: &RunRequest,
    engine: &str,
    settings: &Settings,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["--json", "--quiet", "--engine", engine, "--state-dir"]
        .map(OsString::from)
        .into();
    words.push(settings.state_dir.clone().into());
    words.extend(["run", "--image", &args.image, "--exec", &args.exec].map(OsString::from));
    if !args.warm {
        words.push("--no-snapshot".into());
    }
    let given = [
        ("--profile", &args.machine.profile),
        ("--memory", &args.machine.memory),
        ("--cpus", &args.machine.cpus),
    ];
    for (flag, value) in given {
        if let Some(value) = value {
            words.extend([flag, value].map(OsString::from));
        }
    }
    if let Some(kernel) = &request.kernel {
        words.extend(["--kernel".into(), kernel.clone().into()]);
    }
    words
}

fn totals(done: &[Iteration]) -> Result<waterfall::Totals, Failure> {
    waterfall::totals(done).ok_or_else(|| {
        Failure::new(
            ErrorKind::Internal,
            "the timeline of a run has no agent mark",
        )
    })
}

/// The artifacts of the measured runs.
struct Booted {
    image: Image,
    kernel: Kernel,
    initramfs: Initramfs,
}

impl Booted {
    fn look_up(pipeline: &Pipeline, request: &RunRequest) -> Result<Booted, Failure> {
        let path = request.kernel.as_deref();
        let kernel = installed_kernel(pipeline, path)?.ok_or_else(|| {
            Failure::new(ErrorKind::NotFound, "the kernel is not in the store")
                .remediation("install one: microagent kernel install")
        })?;
        let image = pipeline.resolve(&request.reference)?;
        let initramfs = pipeline.initramfs(&install::find(install::AGENT)?, &kernel)?;
        Ok(Booted {
            image,
            kernel,
            initramfs,
        })
    }
}

fn compare(
    booted: &Booted,
    request: &RunRequest,
    iterations: u32,
    engine: microagent_proto::control::Engine,
    settings: &Settings,
    termination: &Termination,
) -> Result<Vec<Monitor>, Failure> {
    let run_dir = RunDir::create()?;
    termination.remove_on_exit(run_dir.path());
    let supervisor = install::find(install::SUPERVISOR)?;
    let ours = Ours {
        supervisor: &supervisor,
        engine,
        run_dir: run_dir.path(),
    };
    let guest = Guest {
        kernel: booted.kernel.path.clone(),
        initramfs: Some(booted.initramfs.path.clone()),
        memory_mib: request.resources.memory_mib,
        cpus: request.resources.cpu_count,
    };
    monitors::compare(&ours, &guest, iterations, |line| {
        settings.output.notice(line);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_boots_is_limited() {
        assert_eq!(iterations("3"), Ok(3));
        for wrong in ["0", "-1", "many", "10001"] {
            let failure = iterations(wrong).unwrap_err();
            assert!(failure.message.contains(wrong), "{}", failure.message);
        }
    }
}
