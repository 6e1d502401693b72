//! Additional disks: checked before any work starts, built from bundles, attached.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use microagent_cas::Digest;
use microagent_pipeline::{Bundle, BundleOptions, ErrorKind, Kernel, Pipeline};
use microagent_proto::agent::Disk;
use microagent_proto::control::{DiskConfig, DiskMode, Engine, disk_serial};
use microagent_vmm::engine::max_disks;
use microagent_vmm::virtio::block::{BlockError, lock};
use microagent_workspace::shell;

use super::document::DiskDocument;
use crate::failure::Failure;
use crate::request::{DiskRequest, DiskSource};

/// Offset of the superblock of an ext2, ext3 or ext4 file system in bytes, and offsets in it
/// (`struct ext4_super_block`): the magic number, and the incompatible features.
const SUPERBLOCK: u64 = 1024;
const MAGIC: (usize, [u8; 2]) = (0x38, 0xef53_u16.to_le_bytes());
const INCOMPATIBLE: usize = 0x60;
/// The journal must be replayed first (`EXT4_FEATURE_INCOMPAT_RECOVER`).
const RECOVER: u8 = 0x4;

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

/// Checks the requested disks, before any work starts.
///
/// # Errors
/// When there are too many disks for `engine`, an image cannot be mounted, or a writable image is
/// attached twice.
pub fn inspect(requests: &[DiskRequest], engine: Engine) -> Result<(), Failure> {
    // One of them is the root disk.
    let limit = max_disks(engine) - 1;
    if requests.len() > limit {
        return Err(Failure::new(
            ErrorKind::Unsupported,
            format!(
                "engine {} supports {limit} additional disks, but {} are given",
                engine.name(),
                requests.len()
            ),
        )
        .remediation("combine several of them into one disk"));
    }
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
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Permission
            }
            _ => ErrorKind::Host,
        };
        Failure::new(kind, format!("cannot use {name}: {error}"))
    };
    // Checked before the open, which can block forever on other file types.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(Failure::new(
            ErrorKind::Unsupported,
            format!("{name} is not a regular file or block device"),
        )
        .remediation(match metadata.is_dir() {
            true => format!(
                "pack the directory with tar and attach it with --bundle {}=TAR:{}:ro",
                request.name, request.mount
            ),
            false => "create one with mkfs.ext4".into(),
        }));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(!request.read_only)
        .open(path)
        .map_err(failed)?;
    // The supervisor takes its own lock; this one reports a conflict before any work starts, and
    // ensures that no VM writes what is read below.
    lock(&file, path, !request.read_only).map_err(|error| {
        let kind = match error {
            BlockError::InUse { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Host,
        };
        Failure::caused(kind, &error).maybe_remediation(error.remediation())
    })?;
    let superblock = superblock(&file).map_err(failed)?;
    if superblock[MAGIC.0..MAGIC.0 + 2] != MAGIC.1 {
        return Err(Failure::new(
            ErrorKind::Unsupported,
            format!("{name} has no ext4 file system"),
        )
        .remediation(
            "create one with mkfs.ext4; partition tables and other image formats are not supported",
        ));
    }
    if request.read_only && superblock[INCOMPATIBLE] & RECOVER != 0 {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("{name} was not unmounted cleanly and cannot be repaired read-only"),
        )
        .remediation(format!(
            "attach it once with :rw, or repair it: e2fsck -p {}",
            shell::word(path)
        )));
    }
    Ok((metadata.dev(), metadata.ino()))
}

/// The superblock; zeros if the file is too short.
fn superblock(file: &File) -> io::Result<[u8; 1024]> {
    let mut bytes = [0; 1024];
    match file.read_exact_at(&mut bytes, SUPERBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; 1024]),
        result => result.map(|()| bytes),
    }
}

/// Builds the disks of all bundles, in the order of the requests.
pub fn build(pipeline: &Pipeline, requests: &[DiskRequest]) -> Result<Vec<Bundle>, Failure> {
    let bundle = |request: &DiskRequest| match &request.source {
        DiskSource::Image(_) => None,
        DiskSource::Bundle(path) => Some(BundleOptions {
            path: path.clone(),
            name: request.name.clone(),
            mount: request.mount.clone(),
            writable: !request.read_only,
        }),
    };
    (requests.iter().filter_map(bundle))
        .map(|options| pipeline.bundle(&options).map_err(Failure::from))
        .collect()
}

/// Combines the requests with the bundles' disks from [`build`]. Deltas are created in
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
/// last disk, after the root and `others`. `None` if the kernel has no modules, or the engine no
/// free device.
pub fn modules(
    pipeline: &Pipeline,
    kernel: &Kernel,
    others: usize,
    engine: Engine,
) -> Option<(DiskConfig, String)> {
    let disk = kernel.modules_disk?;
    let index = others + 1;
    if index >= max_disks(engine) {
        tracing::info!("no device is left for the kernel's modules: use one disk less");
        return None;
    }
    let config = DiskConfig {
        path: pipeline.store().sparse_path(&disk),
        mode: DiskMode::ReadOnly,
    };
    Some((config, disk_serial(index)))
}
