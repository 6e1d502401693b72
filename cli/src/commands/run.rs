//! `microagent run`.

use std::iter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microagent_pipeline::{ErrorKind, Pipeline};
use microagent_proto::agent::{self, Exec, Exited, Place};
use microagent_proto::control::{DiskConfig, DiskMode, Engine, VmConfig};
use microagent_proto::error_chain;
use microagent_vmm::engine::max_disks;
use microagent_workspace::command::shell;
use microagent_workspace::environment::environment;
use microagent_workspace::machine::boot::{BOOT_ATTEMPTS, Guest, boot_timeout, shut_down};
use microagent_workspace::machine::mediation::{self, Mediator};
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::machine::services::Services;
use microagent_workspace::machine::supervisor::Supervisor;
use microagent_workspace::machine::timeline::{Mark, Timeline};
use microagent_workspace::network::refusals::Summary;
use microagent_workspace::passed::{Passed, trust};
use microagent_workspace::plan;
use microagent_workspace::prepare::{BootPlan, ImageRoot, Prepared, image_root};
use microagent_workspace::start::ManifestError;
use microagent_workspace::state::State;
use microagent_workspace::warm::Programs;
use microagent_workspace::warm::attempt::Attempt;
use rustix::rand::{GetRandomFlags, getrandom};

use super::pipeline;
use crate::args::RunArgs;
use crate::document::{ImageDocument, KernelDocument, nodes, time};
use crate::engine::{self, Choice};
use crate::failure::{EXIT_RUN_FAILED, EXIT_SIGPIPE, EXIT_TIMED_OUT, ErrorDocument, Failure};
use crate::install;
use crate::output::Output;
use crate::request::{RunRequest, Variables, exec_size, resources};
use crate::run::artifacts::{self, check_memory};
use crate::run::deadline::Deadline;
use crate::run::disks::{self, AttachedDisk};
use crate::run::document::{NetworkDocument, ResultDocument, RunDocument};
use crate::run::kept::Reserved;
use crate::run::network::{self, RunNetwork};
use crate::run::outputs::Outputs;
use crate::run::passed;
use crate::run::phases::{Phases, millis, timed};
use crate::run::variables;
use crate::run::vm::{self, Outcome, Status, Task, exit_code};
use crate::run::warnings::RunWarnings;
use crate::settings::{Settings, make_private_dir};
use crate::termination::Termination;

/// Runs one command in a fresh VM; returns the exit code.
pub fn run(args: RunArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let begun = Instant::now();
    let variables = variables::read(&args.environment)?;
    let mut request = RunRequest::check(args, variables, resources::host_cpus(), settings.network)?;
    request.passed = read_passed(&request, settings)?;
    let mut attempt = 1;
    loop {
        if let Some(code) = try_run(&request, begun, attempt, settings, termination)? {
            return Ok(code);
        }
        attempt += 1;
    }
}

/// What the host passes to the guest.
fn read_passed(request: &RunRequest, settings: &Settings) -> Result<Passed, Failure> {
    let proxy = request.proxy.as_deref();
    if proxy.is_some() && request.network.is_none() {
        plan::proxy::check_mode(settings.network)?;
    }
    let given = Variables {
        set: request.env.clone(),
        unset: request.unset_env.clone(),
    };
    passed::read(proxy, &request.ca_certs, &given, settings.output)
}

/// Runs the command; returns the exit code, or `None` if the guest did not boot and is to be booted
/// once more.
fn try_run(
    request: &RunRequest,
    begun: Instant,
    attempt: u32,
    settings: &Settings,
    termination: &Termination,
) -> Result<Option<u8>, Failure> {
    let mut timeline = Timeline::default();
    timeline.record_now(Mark::Cli);
    let name = match &request.name {
        Some(name) => name.clone(),
        None => generated_name()?,
    };
    let outputs = Outputs::new(
        &request.outputs,
        request.output_dir.as_deref(),
        &name,
        termination,
    )?;
    let choice = engine::choose_with_notice(settings)?;
    let networked = network::is_wanted(request.network.as_ref(), settings);
    disks::inspect(&request.disks, choice.engine, networked)?;
    let agent = install::find(install::AGENT)?;
    let monitor = match &request.supervisor {
        Some(path) => install::check_program("--supervisor", path)?,
        None => install::find(install::SUPERVISOR)?,
    };

    if let Some(mediation) = request.mediation.as_ref().filter(|it| it.required) {
        mediation::probe(&mediation.target)?;
    }
    let pipeline = pipeline::open(settings, termination)?;
    let reserved = match request.keep {
        true => Some(Reserved::new(
            settings,
            pipeline.store(),
            &name,
            termination,
        )?),
        false => None,
    };
    let run_dir = RunDir::create()?;
    termination.remove_on_exit(run_dir.path());
    let mut phases = Phases::default();
    let verbose = settings.output.verbose > 1;
    let supervisor = timed(&mut phases.spawn, || {
        Supervisor::spawn(&monitor, choice.engine, verbose)
    })?;
    timeline.record_now(Mark::Spawned);
    let mut network = RunNetwork::open(request.network.as_ref(), &name, settings)?;
    let refusals = network.refusals();
    let services = services(request, &mut network, &supervisor);
    supervisor.on_connection(services.acceptor());
    let artifacts = artifacts::prepare(
        &pipeline,
        &BootPlan {
            kernel: request.kernel.clone(),
            bundles: disks::bundles(&request.disks),
            agent,
        },
        settings.output,
        &mut phases,
        termination,
        |times| image_root(&pipeline, &request.image_plan(), times),
    )?;
    timeline.record_now(Mark::LookedUp);
    check_memory(
        &artifacts.kernel.path,
        &artifacts.initramfs.path,
        request.resources.memory_mib,
        request.resources.cpu_count,
        "--memory",
    )?;
    let store = pipeline.store();
    let kept = (reserved.map(|reserved| {
        let engine = choice.engine.name();
        reserved.make(request, &name, &artifacts, engine, store, settings)
    }))
    .transpose()?;
    let scratch = scratch_dir(settings)?;
    let mut attached = disks::attach(&request.disks, &artifacts.bundles, &scratch);
    let root = match &kept {
        Some(kept) => {
            let mut disks = kept.disks(store)?.into_iter();
            let root = disks.next().ok_or(ManifestError::Missing("rootfs"))?;
            for (disk, config) in attached.iter_mut().zip(disks) {
                disk.config = config;
            }
            root
        }
        None => DiskConfig {
            path: artifacts.root.rootfs.path.clone(),
            mode: DiskMode::Overlay {
                scratch_dir: scratch,
            },
        },
    };
    let limit = max_disks(choice.engine, networked);
    let modules = disks::modules(&pipeline, &artifacts.kernel, attached.len(), limit);
    let config = VmConfig {
        name: name.clone(),
        engine: choice.engine,
        cpus: request.resources.cpu_count,
        memory_mib: request.resources.memory_mib,
        kernel: artifacts.kernel.path.clone(),
        initramfs: Some(artifacts.initramfs.path.clone()),
        extra_cmdline: None,
        disks: iter::once(root.clone())
            .chain(attached.iter().map(|disk| disk.config.clone()))
            .chain(modules.iter().map(|(config, _)| config.clone()))
            .collect(),
        run_dir: run_dir.path().to_owned(),
        console_to_stderr: verbose,
        listen: request.mediation.iter().map(|it| it.port).collect(),
        net: None,
        saved: None,
    };
    let mut task = task(
        settings, request, &artifacts, &name, config, &attached, outputs,
    );
    task.network = network;
    task.guest.modules = modules.map(|(_, serial)| serial);
    exec_size::check(&task.command, &request.env)?;
    for (_, setup) in &task.setup {
        exec_size::check(setup, &request.env)?;
    }
    task.boot_timeout = boot_timeout(choice.engine, attempt);
    let mut attempted = match choice.engine {
        Engine::Kvm if attempt == 1 && settings.snapshots && !request.no_snapshot => {
            let (kernel, initramfs) = (&artifacts.kernel, &artifacts.initramfs);
            let (kernel, initramfs) = (kernel.digest, initramfs.digest);
            let programs = Programs::new(pipeline.store(), &monitor, kernel, initramfs)
                .inspect_err(|error| tracing::info!("the VM boots: {}", error_chain(error)));
            programs
                .ok()
                .map(|programs| Attempt::new(&pipeline, programs, settings.host_dir()))
        }
        _ => None,
    };
    // What is left of it.
    let timeout = request.timeout.map(|seconds| match attempt {
        1 => seconds,
        _ => seconds.saturating_sub(begun.elapsed().as_secs()).max(1),
    });
    let killer = supervisor.killer();
    let deadline = Deadline::start(timeout, move || killer.kill(), termination.clone())?;
    let mut outcome = vm::run(
        &supervisor,
        task,
        attempted.as_mut(),
        settings.output,
        &mut phases,
        &mut timeline,
        &deadline,
    );
    timeline.record_now(Mark::Exited);
    if outcome.boot_timed_out() && attempt < BOOT_ATTEMPTS {
        tracing::warn!("the guest did not come up and is started again");
        // Its timer has stopped, and must not begin to limit the time for the result.
        std::mem::forget(deadline);
        supervisor.end(false);
        return Ok(None);
    }

    let exited = outcome.exited();
    let (halted, warnings) = timed(&mut phases.teardown, || {
        let persistent = kept.is_some() || attached.iter().any(AttachedDisk::keeps_writes);
        let halted = persistent && exited.is_some() && shut_down(&supervisor);
        let warnings = RunWarnings::new(supervisor.warnings(), root, &attached);
        supervisor.end(halted);
        drop(run_dir);
        (halted, warnings)
    });
    let unclean = || {
        let kept = attached.iter().find(|disk| disk.keeps_writes());
        kept.filter(|_| exited.is_some() && !halted)
            .map(AttachedDisk::unclean_shutdown)
    };
    // A command that ended by itself, whose data is lost.
    let mut lost = match outcome.status {
        Status::Failed(_) => None,
        _ => warnings.data_loss().or_else(unclean),
    };
    // An output that is missing because the command failed is no failure of its own.
    if let Some(failure) = outcome.outputs_failure.take() {
        match (&outcome.status, &lost) {
            (Status::Exited(exited), None) if exit_code(*exited) == 0 => lost = Some(failure),
            (Status::Failed(_), _) => {}
            _ => settings.output.notice(&failure.message),
        }
    }
    // Complete: the supervisor has sent its last report.
    let refused = refusals.map(|refusals| refusals.summary());
    phases.total = millis(begun.elapsed());
    let parts = DocumentParts {
        settings,
        request,
        name,
        choice,
        pipeline: &pipeline,
        artifacts: &artifacts,
        disks: &attached,
        phases,
        timeline,
        warnings: &warnings,
        refused: refused.clone(),
        state: match exited {
            Some(exited) if lost.is_none() && (kept.is_none() || exit_code(exited) == 0) => {
                match halted {
                    true if kept.is_some() => State::Halted,
                    _ => State::Stopped,
                }
            }
            _ => State::Failed,
        },
    };
    let mut document = parts.document(&mut outcome);
    if let Some(lost) = &lost {
        document.error = Some(ErrorDocument::new(lost));
    }
    let kept = kept.filter(|_| outcome.started_at.is_some());
    // The result is printed even if it cannot be kept. Of several failures the first is the error.
    if let Some(failure) = kept.and_then(|kept| kept.keep(exited, &document).err()) {
        match (&outcome.status, &lost) {
            (Status::Failed(_), _) | (_, Some(_)) => settings.output.notice(&failure.message),
            _ => {
                document.error = Some(ErrorDocument::new(&failure));
                document.final_state = State::Failed;
                lost = Some(failure);
            }
        }
    }
    drop(deadline);
    let report = Report {
        outcome: &outcome,
        memory_mib: request.resources.memory_mib,
        lost: lost.as_ref(),
        warnings: &warnings,
        refused: refused.as_ref(),
        document: &document,
    };
    let code = report.print(settings.output, termination)?;
    if let Some(attempted) = attempted.filter(|_| exited.is_some()) {
        attempted.take_beside();
    }
    Ok(Some(code))
}

/// What its VM boots.
type Artifacts = Prepared<ImageRoot>;

/// The result of a run.
struct Report<'a> {
    outcome: &'a Outcome,
    memory_mib: u64,
    /// The command ended, but its data is lost, or its workspace could not be kept.
    lost: Option<&'a Failure>,
    warnings: &'a RunWarnings,
    /// What the rules of its network refused, if it has any.
    refused: Option<&'a Summary>,
    document: &'a RunDocument,
}

impl Report<'_> {
    /// Prints the document, the warnings and the failure, if any; returns the exit code.
    fn print(self, output: Output, termination: &Termination) -> Result<u8, Failure> {
        let out_of_memory = match self.outcome.status {
            Status::Exited(Exited {
                out_of_memory: true,
                ..
            }) => Some(vm::out_of_memory(self.memory_mib)),
            _ => None,
        };
        let (code, failure) = match (&self.outcome.status, self.lost) {
            (Status::Failed(failure), _) => (failure.exit_code(EXIT_RUN_FAILED), Some(failure)),
            (_, Some(lost)) => (EXIT_RUN_FAILED, Some(lost)),
            (Status::Exited(exited), None) => (exit_code(*exited), out_of_memory.as_ref()),
            (Status::StdoutClosed, None) => (EXIT_SIGPIPE, None),
        };
        if output.json {
            output.document(self.document)?;
        }
        self.warnings.print(output, failure);
        if let Some(notice) = self.refused.and_then(Summary::notice) {
            output.notice(&notice);
        }
        if let Some(failure) = failure {
            // If a signal is already terminating this process, its failure is the one to print.
            termination.disarm();
            output.failure(failure);
        }
        Ok(code)
    }
}

/// The parts of a run's document.
struct DocumentParts<'a> {
    settings: &'a Settings,
    request: &'a RunRequest,
    name: String,
    choice: Choice,
    pipeline: &'a Pipeline,
    artifacts: &'a Artifacts,
    disks: &'a [AttachedDisk],
    phases: Phases,
    timeline: Timeline,
    warnings: &'a RunWarnings,
    refused: Option<Summary>,
    state: State,
}

impl DocumentParts<'_> {
    fn document(self, outcome: &mut Outcome) -> RunDocument {
        let exited = outcome.exited();
        let captured = std::mem::take(&mut outcome.captured);
        let timed_out =
            matches!(&outcome.status, Status::Failed(why) if why.exit == Some(EXIT_TIMED_OUT));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        RunDocument {
            workspace: self.name,
            state_dir: self.settings.state_dir.clone(),
            engine: self.choice.engine.name(),
            image: ImageDocument::new(&self.artifacts.root.image),
            resources: self.request.resources.clone(),
            kernel: KernelDocument::new(&self.artifacts.kernel, self.request.kernel.clone()),
            disks: self.disks.iter().map(AttachedDisk::document).collect(),
            nodes: nodes(self.pipeline),
            phases: self.phases,
            restored: outcome.restored,
            timeline: self.timeline,
            result: ResultDocument {
                started: outcome.started_at.is_some(),
                started_at: outcome.started_at.map(time),
                completed_at: outcome.started_at.map(|_| time(outcome.completed_at)),
                exit_code: exited.and_then(|exited| exited.code),
                signal: exited.and_then(|exited| exited.signal),
                out_of_memory: exited.is_some_and(|exited| exited.out_of_memory),
                timed_out,
                stdout: text(captured.stdout),
                stderr: text(captured.stderr),
                truncated: captured.truncated,
            },
            warnings: self.warnings.document(),
            network: self.refused.map(NetworkDocument::new),
            outputs: std::mem::take(&mut outcome.outputs),
            error: match &outcome.status {
                Status::Failed(failure) => Some(ErrorDocument::new(failure)),
                _ => None,
            },
            final_state: self.state,
        }
    }
}

/// The directory for deltas.
fn scratch_dir(settings: &Settings) -> Result<PathBuf, Failure> {
    let directory = settings.host_dir();
    match make_private_dir(&directory) {
        Ok(()) => Ok(directory),
        Err(error) => Err(Failure::new(
            ErrorKind::Host,
            format!("cannot create {}: {error}", directory.display()),
        )),
    }
}

/// What the guest reaches on the host.
fn services(request: &RunRequest, network: &mut RunNetwork, supervisor: &Supervisor) -> Services {
    let services = network.add_services(Services::default(), supervisor);
    match &request.mediation {
        None => services,
        Some(mediation) => {
            let report = |lost| {
                if let Some(why) = lost {
                    tracing::warn!("the mediation target cannot be reached: {why}");
                }
            };
            let mediator = Mediator::new(mediation.target.clone(), report);
            services.with(mediation.port, mediator.acceptor())
        }
    }
}

fn task(
    settings: &Settings,
    request: &RunRequest,
    artifacts: &Artifacts,
    name: &str,
    config: VmConfig,
    disks: &[AttachedDisk],
    outputs: Outputs,
) -> Task {
    let image = &artifacts.root.image.config;
    let hostname = request.hostname.clone().unwrap_or_else(|| name.to_owned());
    let variables = request.passed.variables(&image.env);
    let overrides = (variables.iter().map(|(name, value)| (&**name, &**value)))
        .chain(request.env.iter().map(|(name, value)| (&**name, &**value)));
    let mut env = environment(&image.env, overrides, &hostname);
    env.retain(|(name, _)| !request.unset_env.contains(name));
    let exec = |argv: Vec<String>, place| Exec {
        argv,
        env: env.clone(),
        cwd: image.working_dir.clone(),
        user: image.user.clone(),
        stdin: false,
        output: agent::Output::Separate,
        place,
        keep: false,
    };
    let setup = request.setup.iter();
    // Both streams of a setup command go to standard error.
    let setup_exec = |command: &String| Exec {
        output: agent::Output::Merged,
        ..exec(shell(command), Place::Beside)
    };
    Task {
        config,
        setup: setup
            .map(|command| (command.clone(), setup_exec(command)))
            .collect(),
        command: Exec {
            stdin: request.stdin,
            output: vm::output_of(settings.output),
            ..exec(artifacts.root.argv.clone(), Place::Workload)
        },
        guest: Guest {
            hostname,
            disks: disks.iter().map(|disk| disk.mount.clone()).collect(),
            modules: None,
            network: None,
            trust: trust(&request.passed.certificates, &image.env),
            // The VM ends with its command, and takes no other one.
            cgroups: false,
        },
        network: RunNetwork::default(),
        outputs,
        boot_timeout: Duration::ZERO,
    }
}

/// A random workspace name.
fn generated_name() -> Result<String, Failure> {
    let mut random = [0; 4];
    getrandom(&mut random[..], GetRandomFlags::empty())
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    Ok(format!("run-{:08x}", u32::from_ne_bytes(random)))
}
