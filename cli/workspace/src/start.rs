//! From a manifest to what a shim is told: which files of the store and of the workspace the VM
//! uses, and what it runs. Nothing is read, copied or created here.

use std::path::PathBuf;

use microagent_cas::{Digest, Output as Object, Store};
use microagent_proto::agent::{Disk as Mount, Exec, Output, Place};
use microagent_proto::control::{DiskConfig, DiskMode, Engine, VmConfig, disk_serial};
use microagent_vmm::engine::max_disks;

use crate::boot::Boot;
use crate::dir::{WorkspaceDir, is_name};
use crate::environment::environment;
use crate::machine::boot::{Guest, boot_timeout};
use crate::network::Plan;
use crate::passed;
use crate::shim::config::{Origin, ShimConfig};
use crate::signal;
use crate::spec::{Access, DEFAULT_ROLE, NetworkMode, OnIdle, Recorded, Spec};
use crate::warm::Programs;

/// How one start differs from others.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The engine.
    pub engine: Engine,
    /// The supervisor program.
    pub supervisor: PathBuf,
    /// The identity of the request, for events.
    pub request_id: String,
    /// Memory in MiB instead of the recorded one.
    pub memory_mib: Option<u64>,
    /// The number of CPUs instead of the recorded one.
    pub cpu_count: Option<u32>,
    /// What to boot instead of the recorded kernel.
    pub boot: Option<Boot>,
    /// Which attempt to boot this is, counted from 1.
    pub attempt: u32,
    /// How the VM comes up.
    pub origin: Origin,
    /// The programs that it consists of, if they are known.
    pub programs: Option<Programs>,
}

/// A manifest from which nothing can be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// `create` recorded nothing.
    #[error("the manifest of the workspace is incomplete: {0} is missing")]
    Missing(&'static str),
    /// A disk has a name that none may have.
    #[error("the manifest of the workspace is damaged: invalid disk name {0:?}")]
    Name(String),
    /// Bundles were added to the manifest.
    #[error("the manifest of the workspace is damaged: it has other bundles than create built")]
    Bundles,
    /// A digest is malformed.
    #[error("the manifest of the workspace is damaged: {0:?} is not a digest")]
    Digest(String),
}

/// What the shim of a workspace is told.
///
/// # Errors
/// [`ManifestError`].
pub fn shim_config(
    directory: &WorkspaceDir,
    spec: &Spec,
    store: &Store,
    options: StartOptions,
) -> Result<ShimConfig, ManifestError> {
    let recorded = recorded(spec)?;
    let name = spec.name.clone().ok_or(ManifestError::Missing("name"))?;
    let hostname = spec.hostname.clone().unwrap_or_else(|| name.clone());
    let disks = disks(directory, spec, recorded, store)?;
    let mut configs: Vec<DiskConfig> = disks.iter().map(|(config, _)| config.clone()).collect();
    let boot = options.boot.unwrap_or_else(|| Boot::recorded(recorded));
    let (kernel, initramfs) = digests(&boot)?;
    let network = spec.network.clone().unwrap_or_default();
    let limit = max_disks(options.engine, network.mode != NetworkMode::Isolated);
    let modules = match &boot.kernel.modules_disk {
        Some(modules) if configs.len() < limit => {
            configs.push(DiskConfig {
                path: store.sparse_path(&digest(modules)?),
                mode: DiskMode::ReadOnly,
            });
            Some(disk_serial(configs.len() - 1))
        }
        _ => None,
    };
    let workload = (!recorded.argv.is_empty()).then(|| Exec {
        // Both streams go to one log, in the order in which they were written.
        output: Output::Merged,
        // The VM may be saved, and go on without this session.
        keep: true,
        ..exec(spec, recorded, recorded.argv.clone(), Place::Workload)
    });
    Ok(ShimConfig {
        directory: directory.path().to_owned(),
        runtime_id: recorded.runtime_id.clone(),
        role: role(spec).to_owned(),
        request_id: options.request_id,
        supervisor: options.supervisor,
        boot_timeout: boot_timeout(options.engine, options.attempt).as_secs(),
        origin: options.origin,
        programs: options.programs,
        boot,
        vm: VmConfig {
            name,
            engine: options.engine,
            cpus: options.cpu_count.unwrap_or(recorded.cpu_count),
            memory_mib: options.memory_mib.unwrap_or(recorded.memory_mib),
            kernel: store.blob_path(&kernel),
            initramfs: Some(store.blob_path(&initramfs)),
            // What is written to the console is kept, and each character is a VM exit: a boot that
            // tells all takes four times as long. `dmesg` in the guest has it.
            extra_cmdline: Some("quiet".to_owned()),
            disks: configs,
            run_dir: PathBuf::new(),
            console_to_stderr: true,
            listen: (spec.mediation.iter()).map(|it| it.port).collect(),
            // The shim opens the network.
            net: None,
            saved: None,
        },
        guest: Guest {
            hostname,
            // The root is not mounted by name.
            disks: disks.into_iter().filter_map(|(_, mount)| mount).collect(),
            modules,
            network: None,
            trust: passed::trust(&recorded.ca_certs, recorded.env()),
            cgroups: true,
        },
        workload,
        mediation: spec.mediation.clone(),
        forwards: network.forwards.clone(),
        network: Some(Plan::new(network, recorded.runtime_id.clone())),
        stop_signal: (recorded.stop_signal())
            .and_then(signal::number)
            .unwrap_or(signal::SIGTERM),
        timeout: spec.timeout_seconds,
        ttl: spec.ttl_seconds,
        suspend: spec.on_idle == Some(OnIdle::Suspend),
    })
}

/// What `create` recorded.
///
/// # Errors
/// [`ManifestError::Missing`].
pub fn recorded(spec: &Spec) -> Result<&Recorded, ManifestError> {
    (spec.recorded.as_ref()).ok_or(ManifestError::Missing("recorded"))
}

/// The caller's label.
pub fn role(spec: &Spec) -> &str {
    spec.role.as_deref().unwrap_or(DEFAULT_ROLE)
}

/// A command in the workspace, with the environment, directory and user of its image.
pub fn exec(spec: &Spec, recorded: &Recorded, argv: Vec<String>, place: Place) -> Exec {
    let name = spec.name.as_deref().unwrap_or_default();
    let hostname = spec.hostname.as_deref().unwrap_or(name);
    let overrides = recorded.variables.iter().chain(&spec.env);
    let overrides = overrides.map(|(name, value)| (&**name, &**value));
    Exec {
        argv,
        env: environment(recorded.env(), overrides, hostname),
        cwd: recorded.working_dir().to_owned(),
        user: recorded.user().to_owned(),
        stdin: false,
        output: Output::Separate,
        place,
        keep: false,
    }
}

/// The names of the disks of its VM, in their order: the root, those of the specification, and the
/// kernel's modules.
pub fn disk_names(spec: &Spec) -> Vec<String> {
    let named = spec.disks.iter().chain(&spec.bundles);
    let named = named.map(|disk| disk.name.clone());
    let ends = ["root", "modules"].map(str::to_owned);
    let [root, modules] = ends;
    std::iter::once(root)
        .chain(named)
        .chain([modules])
        .collect()
}

/// The objects of the store that the workspace needs.
///
/// # Errors
/// [`ManifestError::Digest`].
pub fn objects(recorded: &Recorded) -> Result<Vec<Object>, ManifestError> {
    let kernel = &recorded.kernel;
    let blobs = [&kernel.digest, &recorded.initramfs].into_iter();
    let disks = [&recorded.rootfs].into_iter();
    let disks = disks.chain(&kernel.modules_disk).chain(&recorded.bundles);
    blobs
        .map(|text| digest(text).map(Object::Blob))
        .chain(disks.map(|text| digest(text).map(Object::Sparse)))
        .collect()
}

/// The root disk, then disks and bundles in their order, each with its mount.
///
/// # Errors
/// [`ManifestError`].
pub fn disks(
    directory: &WorkspaceDir,
    spec: &Spec,
    recorded: &Recorded,
    store: &Store,
) -> Result<Vec<(DiskConfig, Option<Mount>)>, ManifestError> {
    let root = DiskConfig {
        path: store.sparse_path(&digest(&recorded.rootfs)?),
        mode: DiskMode::Delta {
            delta: directory.delta(),
            presence: directory.presence(),
        },
    };
    let named = spec.disks.iter().chain(&spec.bundles);
    if let Some(disk) = named.into_iter().find(|disk| !is_name(&disk.name)) {
        return Err(ManifestError::Name(disk.name.clone()));
    }
    if spec.bundles.len() != recorded.bundles.len() {
        return Err(ManifestError::Bundles);
    }
    let mut disks = vec![(root, None)];
    let bundles = spec.bundles.iter().zip(recorded.bundles.iter().map(Some));
    for (disk, bundle) in spec.disks.iter().map(|disk| (disk, None)).chain(bundles) {
        let path = match bundle {
            Some(bundle) => store.sparse_path(&digest(bundle)?),
            None => disk.path.clone(),
        };
        let mode = match (disk.mode, bundle) {
            (Access::Ro, _) => DiskMode::ReadOnly,
            (Access::Rw, None) => DiskMode::ReadWrite,
            (Access::Rw, Some(_)) => DiskMode::Delta {
                delta: directory.path().join(format!("bundle-{}.delta", disk.name)),
                presence: directory
                    .path()
                    .join(format!("bundle-{}.presence", disk.name)),
            },
        };
        let mount = Mount {
            name: disk.name.clone(),
            serial: disk_serial(disks.len()),
            mount: disk.mountpoint.clone(),
            fs_type: "ext4".into(),
            read_only: disk.mode == Access::Ro,
        };
        disks.push((DiskConfig { path, mode }, Some(mount)));
    }
    Ok(disks)
}

/// The digests of kernel and initramfs.
///
/// # Errors
/// [`ManifestError::Digest`].
pub fn digests(boot: &Boot) -> Result<(Digest, Digest), ManifestError> {
    Ok((digest(&boot.kernel.digest)?, digest(&boot.initramfs)?))
}

/// A digest of a manifest.
///
/// # Errors
/// [`ManifestError::Digest`].
pub fn digest(text: &str) -> Result<Digest, ManifestError> {
    text.parse()
        .map_err(|_| ManifestError::Digest(text.to_owned()))
}
