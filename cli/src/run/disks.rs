//! Additional disks: checked before any work starts, built from bundles, attached.

use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::Digest;
use microagent_pipeline::{Bundle, BundleOptions, ErrorKind, Kernel, Pipeline};
use microagent_proto::agent::Disk;
use microagent_proto::control::{DiskConfig, DiskMode, Engine, disk_serial};
use microagent_vmm::engine::max_disks;
use microagent_vmm::virtio::block::BlockError;
use microagent_workspace::disk_image::{DiskImage, DiskImageError};
use microagent_workspace::plan::disks::{DiskRequest, DiskSource};
use microagent_workspace::shell;
use microagent_workspace::spec::Access;

use super::document::DiskDocument;
use crate::failure::{Failure, kind_of};

/// An attached disk, as the supervisor and the guest agent need it.
#[derive(Debug)]
pub struct AttachedDisk {
    /// For the supervisor.
    pub config: DiskConfig,
    /// For the guest agent.
    pub mount: Disk,
    digest: Option<Digest>,
}

impl AttachedDisk {
    /// Whether the guest's writes outlive the VM.
    pub fn keeps_writes(&self) -> bool {
        self.config.mode == DiskMode::ReadWrite
    }

    /// The failure of a run whose guest did not shut down.
    pub fn unclean_shutdown(&self) -> Failure {
        Failure::new(
            ErrorKind::Guest,
            format!(
                "the guest did not shut down: recent writes to disk {} may be lost",
                self.mount.name
            ),
        )
        .remediation(format!(
            "check the disk: e2fsck -fp {}",
            shell::word(&self.config.path)
        ))
    }

    /// The JSON document of the disk.
    pub fn document(&self) -> DiskDocument {
        DiskDocument {
            name: self.mount.name.clone(),
            mount: self.mount.mount.clone(),
            read_only: self.mount.read_only,
            digest: self.digest,
            path: self.digest.is_none().then(|| self.config.path.clone()),
        }
    }
}

/// Refuses more additional disks than a VM can have. `network` is whether it has a network device.
///
/// # Errors
/// When there are too many.
pub fn check_count(count: usize, engine: Engine, network: bool) -> Result<(), Failure> {
    // One of them is the root disk.
    let limit = max_disks(engine, network) - 1;
    if count <= limit {
        return Ok(());
    }
    let beside = if network { " beside a network" } else { "" };
    let message = format!(
        "engine {} supports {limit} additional disks{beside}, but {count} are given",
        engine.name()
    );
    Err(Failure::new(ErrorKind::Unsupported, message)
        .remediation("combine several of them into one disk"))
}

/// Checks the requested disks, before any work starts. `network` is whether the VM has a network
/// device.
///
/// # Errors
/// When there are too many disks for `engine`, an image cannot be mounted, or a writable image is
/// attached twice.
pub fn inspect(requests: &[DiskRequest], engine: Engine, network: bool) -> Result<(), Failure> {
    check_count(requests.len(), engine, network)?;
    let mut seen: Vec<(&DiskRequest, (u64, u64))> = Vec::new();
    for request in requests {
        let DiskSource::Image(path) = &request.source else {
            continue;
        };
        let identity = inspect_image(request, path)?;
        let same = |(other, known): &&(&DiskRequest, _)| {
            *known == identity && !(other.read_only && request.read_only)
        };
        if let Some((other, _)) = seen.iter().find(same) {
            return Err(Failure::new(
                ErrorKind::Conflict,
                format!(
                    "disks {} and {} are the same file {}, and one of them is writable",
                    other.name,
                    request.name,
                    path.display()
                ),
            )
            .remediation("attach it once, or read-only both times"));
        }
        seen.push((request, identity));
    }
    Ok(())
}

/// Checks that the guest can mount the image; returns its device and inode number.
fn inspect_image(request: &DiskRequest, path: &Path) -> Result<(u64, u64), Failure> {
    let name = format!("disk {} ({})", request.name, path.display());
    let access = match request.read_only {
        true => Access::Ro,
        false => Access::Rw,
    };
    let image = DiskImage::open(path, access).map_err(|error| {
        let is_directory = matches!(error, DiskImageError::NotAFile { directory: true });
        let failure = image_failure(&name, error);
        match is_directory {
            true => failure.remediation(format!(
                "pack the directory with tar and attach it with --bundle {}=TAR:{}:ro",
                request.name, request.mount
            )),
            false => failure,
        }
    })?;
    if request.read_only && image.is_unclean() {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("{name} was not unmounted cleanly and cannot be repaired read-only"),
        )
        .remediation(format!(
            "attach it once with :rw, or repair it: e2fsck -p {}",
            shell::word(path)
        )));
    }
    Ok(image.identity())
}

/// The failure of an image that is called `name` in messages.
pub fn image_failure(name: &str, error: DiskImageError) -> Failure {
    match error {
        DiskImageError::Io(error) => {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => kind_of(&error),
            };
            Failure::new(kind, format!("cannot use {name}: {error}"))
        }
        DiskImageError::NotAFile { .. } => Failure::new(
            ErrorKind::Unsupported,
            format!("{name} is not a regular file or block device"),
        )
        .remediation("create one with mkfs.ext4"),
        DiskImageError::Lock(error) => {
            let kind = match error {
                BlockError::InUse { .. } => ErrorKind::Conflict,
                _ => ErrorKind::Host,
            };
            Failure::caused(kind, &error).maybe_remediation(error.remediation())
        }
        DiskImageError::NoExt4 => Failure::new(
            ErrorKind::Unsupported,
            format!("{name} has no ext4 file system"),
        )
        .remediation(
            "create one with mkfs.ext4; partition tables and other image formats are not supported",
        ),
        DiskImageError::Truncated { .. } => {
            Failure::new(ErrorKind::Corrupt, format!("{name} is {error}"))
                .remediation("copy it again, completely")
        }
        DiskImageError::Changed => {
            let failure = Failure::new(ErrorKind::Conflict, format!("{name} {error}"));
            failure.remediation("try again when nothing writes to it")
        }
        DiskImageError::Store(error) => error.into(),
        error => Failure::new(ErrorKind::Internal, format!("{name}: {error}")),
    }
}

/// The disks to build from tar archives, in the order of the requests.
pub fn bundles(requests: &[DiskRequest]) -> Vec<BundleOptions> {
    let bundle = |request: &DiskRequest| match &request.source {
        DiskSource::Image(_) => None,
        DiskSource::Bundle(path) => Some(BundleOptions {
            path: path.clone(),
            name: request.name.clone(),
            mount: request.mount.clone(),
            writable: !request.read_only,
        }),
    };
    requests.iter().filter_map(bundle).collect()
}

/// Combines the requests with the bundles' disks, in the order of [`bundles`]. Deltas are created in
/// `scratch_dir`.
pub fn attach(
    requests: &[DiskRequest],
    bundles: &[Bundle],
    scratch_dir: &Path,
) -> Vec<AttachedDisk> {
    let mut bundles = bundles.iter();
    let mut attached = Vec::new();
    for request in requests {
        let (path, digest): (PathBuf, _) = match &request.source {
            DiskSource::Image(path) => (path.clone(), None),
            DiskSource::Bundle(_) => match bundles.next() {
                Some(bundle) => (bundle.path.clone(), Some(bundle.digest)),
                None => continue,
            },
        };
        let mode = match (request.read_only, digest) {
            (true, _) => DiskMode::ReadOnly,
            (false, None) => DiskMode::ReadWrite,
            (false, Some(_)) => DiskMode::Overlay {
                scratch_dir: scratch_dir.to_owned(),
            },
        };
        attached.push(AttachedDisk {
            config: DiskConfig { path, mode },
            mount: Disk {
                name: request.name.clone(),
                // The root disk is disk 0.
                serial: disk_serial(attached.len() + 1),
                mount: request.mount.clone(),
                fs_type: "ext4".into(),
                read_only: request.read_only,
            },
            digest,
        });
    }
    attached
}

/// The disk with the modules of `kernel` as the supervisor needs it, and its serial number: the
/// last disk, after the root and `others`. `None` if the kernel has no modules, or a VM with as many
/// disks as `max_disks` has no room for it.
pub fn modules(
    pipeline: &Pipeline,
    kernel: &Kernel,
    others: usize,
    max_disks: usize,
) -> Option<(DiskConfig, String)> {
    let disk = kernel.modules_disk?;
    let index = others + 1;
    if index >= max_disks {
        tracing::info!("no device is left for the kernel's modules: use one disk less");
        return None;
    }
    let config = DiskConfig {
        path: pipeline.store().sparse_path(&disk),
        mode: DiskMode::ReadOnly,
    };
    Some((config, disk_serial(index)))
}
