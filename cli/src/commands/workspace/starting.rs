//! Starting a workspace: what its VM comes up from, and the process that keeps it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use microagent_cas::Store;
use microagent_pipeline::{ErrorKind, KernelSource, Pipeline};
use microagent_proto::control::Engine;
use microagent_proto::error_chain;
use microagent_workspace::boot::Boot;
use microagent_workspace::creation::random_id;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::machine::boot::BOOT_ATTEMPTS;
use microagent_workspace::saved::{self, Facts};
use microagent_workspace::shim;
use microagent_workspace::shim::config::Origin;
use microagent_workspace::shim::spawn::{SpawnError, spawn};
use microagent_workspace::spec::{RecordedKernel, Spec};
use microagent_workspace::start::{StartOptions, digests, recorded, shim_config};
use microagent_workspace::warm::Programs;
use microagent_workspace::warm::snapshots::Snapshots;
use tracing_subscriber::filter::LevelFilter;

use super::lock;
use super::saved_as::{Snapshot, check_whole};
use crate::args::StartArgs;
use crate::commands::pipeline;
use crate::engine;
use crate::failure::Failure;
use crate::install;
use crate::request::resources::{self, ResourceArgs};
use crate::run::artifacts::check_memory;
use crate::settings::Settings;
use crate::termination::Termination;

/// First argument of the process that starts a shim and ends.
const DETACH_MODE: &str = "--start-workspace-shim";

/// First argument of a shim's process.
const SHIM_MODE: &str = "--workspace-shim";

/// Runs a shim, or starts one, if that is what `words` say.
pub fn run_shim_mode(words: &[OsString]) -> Option<ExitCode> {
    let mode = words.get(1)?.to_str()?;
    let ended = match mode {
        DETACH_MODE => shim::spawn::detach(&program(), SHIM_MODE),
        SHIM_MODE => {
            // Standard error becomes the workspace's console.
            tracing_subscriber::fmt()
                .with_max_level(LevelFilter::WARN)
                .with_ansi(false)
                .with_target(false)
                .with_writer(std::io::stderr)
                .init();
            shim::spawn::main()
        }
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// This program.
fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"))
}

/// What is different for one start.
#[derive(Debug, Default)]
pub(super) struct Change {
    memory_mib: Option<u64>,
    cpu_count: Option<u32>,
    boot: Option<Boot>,
    no_snapshot: bool,
    from_snapshot: Option<Snapshot>,
    /// Holds what `boot` names in the store.
    _pipeline: Option<Pipeline>,
}

impl Change {
    pub(super) fn of(
        args: &StartArgs,
        settings: &Settings,
        termination: &Termination,
    ) -> Result<Change, Failure> {
        let given = ResourceArgs {
            profile: args.profile.as_deref(),
            memory: args.memory.as_deref(),
            cpus: args.cpus.as_deref(),
            ..ResourceArgs::default()
        };
        let resources = resources::resolve(&given, resources::host_cpus())?;
        let of_profile = args.profile.is_some();
        let mut change = Change {
            memory_mib: (of_profile || args.memory.is_some()).then_some(resources.memory_mib),
            cpu_count: (of_profile || args.cpus.is_some()).then_some(resources.cpu_count),
            no_snapshot: args.no_snapshot,
            from_snapshot: (args.from_snapshot.as_deref())
                .map(|snapshot| Snapshot::find(settings, snapshot))
                .transpose()?,
            ..Change::default()
        };
        if let Some(path) = &args.kernel {
            let agent = install::find(install::AGENT)?;
            let pipeline = pipeline::open(settings, termination)?;
            let kernel = pipeline.kernel(&KernelSource::Path(path.clone()))?;
            let initramfs = pipeline.initramfs(&agent, &kernel)?;
            change.boot = Some(Boot {
                kernel: RecordedKernel {
                    digest: kernel.digest.to_string(),
                    modules_disk: kernel.modules_disk.map(|disk| disk.to_string()),
                },
                initramfs: initramfs.digest.to_string(),
            });
            change._pipeline = Some(pipeline);
        }
        Ok(change)
    }

    /// Whether a suspended workspace goes on with its memory.
    pub(super) fn keeps_memory(&self) -> bool {
        !self.no_snapshot && self.from_snapshot.is_none()
    }

    /// Whether the VM is to be another one than that which was suspended.
    pub(super) fn is_of_machine(&self) -> bool {
        self.memory_mib.is_some() || self.cpu_count.is_some() || self.boot.is_some()
    }
}

/// What a VM goes on from.
struct Former {
    directory: PathBuf,
    facts: Facts,
}

impl Former {
    /// The snapshot that was given, or the memory of a suspended workspace.
    fn of(directory: &WorkspaceDir, change: &Change) -> Option<Former> {
        if let Some(snapshot) = &change.from_snapshot {
            return Some(Former {
                directory: snapshot.path(),
                facts: snapshot.facts.clone(),
            });
        }
        let suspended = saved::suspended(directory).filter(|_| change.keeps_memory());
        suspended.map(|facts| Former {
            directory: directory.path().to_owned(),
            facts,
        })
    }
}

/// Starts the workspace, once more if its guest does not boot.
pub(super) fn start_again(
    directory: &WorkspaceDir,
    name: &str,
    change: &Change,
    settings: &Settings,
) -> Result<(), Failure> {
    let mut attempt = 1;
    loop {
        match try_start(directory, name, change, attempt, settings) {
            Err(failure) if failure.kind == ErrorKind::Timeout && attempt < BOOT_ATTEMPTS => {
                tracing::warn!("the guest did not come up and is started again");
            }
            done => return done,
        }
        attempt += 1;
    }
}

fn try_start(
    directory: &WorkspaceDir,
    name: &str,
    change: &Change,
    attempt: u32,
    settings: &Settings,
) -> Result<(), Failure> {
    let Some(lock) = lock(&directory.lock())? else {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is already running"),
        )
        .remediation(format!("stop it first: microagent stop {name}")));
    };
    let spec = directory.spec()?;
    let choice = engine::choose_with_notice(settings)?;
    let store = Store::open(&settings.store_dir())?;
    let monitor = supervisor(&spec)?;
    let former = Former::of(directory, change);
    let boot = match (&former, &change.boot) {
        (Some(former), _) => former.facts.boot.clone(),
        (None, Some(boot)) => boot.clone(),
        (None, None) => Boot::recorded(recorded(&spec)?),
    };
    let programs = match choice.engine {
        Engine::Kvm => {
            let (kernel, initramfs) = digests(&boot)?;
            Programs::new(&store, &monitor, kernel, initramfs)
                .inspect_err(|error| tracing::info!("no snapshots: {}", error_chain(error)))
                .ok()
        }
        Engine::Qemu => None,
    };
    if let Some(snapshot) = change.from_snapshot.as_ref().filter(|_| programs.is_some()) {
        snapshot.replace_disks(directory, name, &spec)?;
    }
    let origin = match (&former, &programs) {
        (Some(_), None) => {
            let message = format!("engine {} has no snapshots", choice.engine.name());
            let failure = Failure::new(ErrorKind::Unsupported, message);
            return Err(or_without_memory(failure, directory, name));
        }
        (Some(former), Some(_)) => Origin::Saved(former.directory.clone()),
        (None, Some(programs)) if attempt == 1 && settings.snapshots && !change.no_snapshot => {
            Origin::Idle(Snapshots {
                store: store.root().to_owned(),
                host_dir: settings.host_dir(),
                programs: programs.clone(),
            })
        }
        _ => Origin::Boot,
    };
    check_whole(directory, name)?;
    let options = StartOptions {
        engine: choice.engine,
        supervisor: monitor,
        request_id: random_id()?,
        memory_mib: (former.as_ref()).map_or(change.memory_mib, |it| Some(it.facts.memory_mib)),
        cpu_count: (former.as_ref()).map_or(change.cpu_count, |it| Some(it.facts.cpu_count)),
        boot: Some(boot),
        attempt,
        origin,
        programs,
    };
    let config = shim_config(directory, &spec, &store, options)?;
    if let Some(initramfs) = &config.vm.initramfs {
        let vm = &config.vm;
        check_memory(&vm.kernel, initramfs, vm.memory_mib, vm.cpus, "--memory")?;
    }
    let failed = |error| match error {
        SpawnError::Failed {
            kind,
            message,
            remediation,
        } => Failure::new(
            ErrorKind::from_name(&kind).unwrap_or(ErrorKind::Host),
            message,
        )
        .maybe_remediation(remediation),
        error => Failure::caused(ErrorKind::Host, &error)
            .remediation(format!("see its console: microagent logs --console {name}")),
    };
    spawn(&program(), DETACH_MODE, &config, lock)
        .map_err(|error| or_without_memory(failed(error), directory, name))
}

/// The same failure, with the way out of a suspended workspace that cannot go on.
fn or_without_memory(failure: Failure, directory: &WorkspaceDir, name: &str) -> Failure {
    if failure.remediation.is_some() || saved::suspended(directory).is_none() {
        return failure;
    }
    failure.remediation(format!(
        "boot it without its memory: microagent start {name} --no-snapshot"
    ))
}

/// The supervisor program of a workspace.
pub(super) fn supervisor(spec: &Spec) -> Result<PathBuf, Failure> {
    let recorded = spec.recorded.as_ref().and_then(|it| it.supervisor.as_ref());
    match recorded {
        Some(path) => install::check_program("--supervisor", path),
        None => install::find(install::SUPERVISOR),
    }
}
