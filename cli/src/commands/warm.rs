//! `microagent warm`: takes the snapshot that runs are restored from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use microagent_pipeline::ErrorKind;
use microagent_proto::control::{DiskConfig, DiskMode, Engine, NetBackend, NetConfig, VmConfig};
use microagent_vmm::engine::max_disks;
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::prepare::BootPlan;
use microagent_workspace::spec::NetworkMode;
use microagent_workspace::warm::{self, Programs, Refused, WarmError, beside};
use serde::Serialize;

use super::pipeline;
use crate::args::{NetworkArgs, WarmArgs};
use crate::engine;
use crate::failure::Failure;
use crate::install;
use crate::request::network;
use crate::request::resources::{self, ResourceArgs, Resources};
use crate::run::artifacts::{self, check_memory};
use crate::run::disks;
use crate::run::network::{asked_or_default, check_host};
use crate::run::phases::{Phases, millis};
use crate::settings::{Settings, make_private_dir};
use crate::termination::Termination;

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Taken {
    /// The node's key.
    snapshot: String,
    /// Whether it was in the store.
    hit: bool,
    /// What it takes on the disk, in bytes.
    bytes: u64,
    resources: Resources,
    millis: f64,
}

/// Runs the process that takes a snapshot beside a run, if `words` ask for it.
pub fn run_take_mode(words: &[OsString]) -> Option<ExitCode> {
    (words.get(1)?.to_str()? == beside::MODE).then(|| match beside::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Takes the snapshot for runs with the same flags, or finds it, and prints it.
pub fn warm(
    args: &WarmArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let taken = take_snapshot(args, settings, termination)?;
    if settings.output.json {
        settings.output.document(&taken)?;
        return Ok(0);
    }
    let how = if taken.hit { "found" } else { "taken" };
    let (cpus, mib) = (taken.resources.cpu_count, taken.resources.memory_mib);
    settings.output.text(&format!(
        "snapshot {}: {cpus} CPUs, {mib} MiB, {} MiB on disk, {how} in {:.0} ms\n",
        taken.snapshot,
        taken.bytes >> 20,
        taken.millis
    ))?;
    Ok(0)
}

/// Takes the snapshot for runs with the same flags, or finds it.
pub(super) fn take_snapshot(
    args: &WarmArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<Taken, Failure> {
    let begun = Instant::now();
    let resources = resources::resolve(
        &ResourceArgs {
            profile: args.machine.profile.as_deref(),
            memory: args.machine.memory.as_deref(),
            cpus: args.machine.cpus.as_deref(),
            size_mib: None,
        },
        resources::host_cpus(),
    )?;
    let given = NetworkArgs {
        network: args.network.clone(),
        // The name of a bridge is not part of a snapshot.
        network_interface: (args.network.as_deref() == Some("bridged")).then(|| "bridge".into()),
        ..NetworkArgs::default()
    };
    let network = asked_or_default(network::check(&given, settings.network)?.as_ref(), settings);
    let choice = engine::choose_with_notice(settings)?;
    if choice.engine != Engine::Kvm {
        return Err(Failure::new(
            ErrorKind::Unsupported,
            format!("engine {} takes no snapshots", choice.engine.name()),
        ));
    }
    let agent = install::find(install::AGENT)?;
    let monitor = install::find(install::SUPERVISOR)?;
    let pipeline = pipeline::open(settings, termination)?;
    let plan = BootPlan {
        kernel: args.machine.kernel.clone(),
        bundles: Vec::new(),
        agent,
    };
    let found = artifacts::prepare(
        &pipeline,
        &plan,
        settings.output,
        &mut Phases::default(),
        termination,
        |_| Ok(()),
    )?;
    let (kernel, initramfs) = (&found.kernel, &found.initramfs);
    let (memory_mib, cpus) = (resources.memory_mib, resources.cpu_count);
    check_memory(&kernel.path, &initramfs.path, memory_mib, cpus, "--memory")?;
    let host_dir = settings.host_dir();
    make_private_dir(&host_dir).map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    // As for a run: without passt, a guest for which no network was asked has none.
    let missing = args.network.is_none() && check_host(network.mode).is_err();
    let networked = network.mode != NetworkMode::Isolated && !missing;
    let root = DiskConfig {
        path: PathBuf::new(),
        mode: DiskMode::Overlay {
            scratch_dir: PathBuf::new(),
        },
    };
    let modules = disks::modules(&pipeline, kernel, 0, max_disks(choice.engine, networked));
    let config = VmConfig {
        name: String::new(),
        engine: choice.engine,
        cpus,
        memory_mib,
        kernel: kernel.path.clone(),
        initramfs: Some(initramfs.path.clone()),
        extra_cmdline: None,
        disks: [root].into_iter().chain(modules.map(|it| it.0)).collect(),
        run_dir: PathBuf::new(),
        console_to_stderr: false,
        listen: Vec::new(),
        net: networked.then(|| NetConfig {
            mac: [0; 6],
            backend: NetBackend::Stream,
            addresses: Vec::new(),
            egress: None,
        }),
        saved: None,
    };
    let programs = Programs::new(pipeline.store(), &monitor, kernel.digest, initramfs.digest)?;
    let refused = Refused::new(host_dir);
    let again = refused.why(&programs, &config).is_some();
    let run_dir = RunDir::create()?;
    termination.remove_on_exit(run_dir.path());
    let snapshot = warm::take(&pipeline, &programs, &config, again, run_dir)?;
    refused.clean(pipeline.store().root());
    refused
        .forget(&programs, &config)
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    let bytes = std::fs::metadata(&snapshot.path)
        .map(|file| std::os::unix::fs::MetadataExt::blocks(&file) * 512)
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    Ok(Taken {
        snapshot: snapshot.node.key.to_string(),
        hit: snapshot.node.hit,
        bytes,
        resources,
        millis: millis(begun.elapsed()),
    })
}

impl From<WarmError> for Failure {
    fn from(error: WarmError) -> Failure {
        match error {
            WarmError::Store(error) => error.into(),
            WarmError::Pipeline(error) => error.into(),
            WarmError::Machine(error) => error.into(),
            WarmError::RunDir(error) => error.into(),
            error => Failure::caused(ErrorKind::Host, &error),
        }
    }
}
