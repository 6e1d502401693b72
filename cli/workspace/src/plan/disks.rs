//! Additional disks.

use std::path::{Component, Path, PathBuf};

use super::{PlanError, name};
use crate::spec::{Access, Disk, Field};

/// Kernel file systems of the guest, which a disk must not hide.
const RESERVED_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// An additional disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// Its name.
    pub name: String,
    /// Its content.
    pub source: DiskSource,
    /// Mount point in the guest: an absolute path without `.`, `..` and double slashes.
    pub mount: String,
    /// Attached read-only.
    pub read_only: bool,
}

/// The content of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image file or block device.
    Image(PathBuf),
    /// A tar archive, from which the disk is built.
    Bundle(PathBuf),
}

/// Validates disks and bundles. Images come first, each kind in order.
///
/// # Errors
/// The first invalid value.
pub fn check(images: &[Disk], bundles: &[Disk]) -> Result<Vec<DiskRequest>, PlanError> {
    let field = |index: usize| match index.checked_sub(images.len()) {
        None => Field::new("disks").index(index),
        Some(index) => Field::new("bundles").index(index),
    };
    let image = |disk| (disk, DiskSource::Image as fn(PathBuf) -> DiskSource);
    let bundle = |disk| (disk, DiskSource::Bundle as fn(PathBuf) -> DiskSource);
    let all = images.iter().map(image).chain(bundles.iter().map(bundle));
    let disks = all
        .enumerate()
        .map(|(index, (disk, source))| request(field(index), disk, source))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, disk) in disks.iter().enumerate() {
        for other in &disks[..index] {
            if other.name == disk.name {
                let name = &disk.name;
                return Err(PlanError::invalid(format!("two disks are named {name:?}"))
                    .at(field(index).name("name"))
                    .remediation("use a unique name for each disk"));
            }
            if other.mount == disk.mount {
                return Err(PlanError::invalid(format!(
                    "disks {:?} and {:?} have the same mount point {}",
                    other.name, disk.name, disk.mount
                ))
                .at(field(index).name("mountpoint"))
                .remediation("use a unique mount point for each disk"));
            }
        }
    }
    Ok(disks)
}

fn request(
    field: Field,
    disk: &Disk,
    source: fn(PathBuf) -> DiskSource,
) -> Result<DiskRequest, PlanError> {
    name::check(&disk.name, "disk").map_err(|error| error.at(field.clone().name("name")))?;
    let field = field.name("mountpoint");
    Ok(DiskRequest {
        name: disk.name.clone(),
        source: source(disk.path.clone()),
        mount: normal_mount_point(&disk.mountpoint).map_err(|why| invalid(&why).at(field))?,
        read_only: disk.mode == Access::Ro,
    })
}

/// Validates and normalizes an absolute path in the guest, the value of `flag`.
///
/// # Errors
/// When no disk can be mounted there.
pub fn mount_point(flag: &str, path: &str) -> Result<String, PlanError> {
    normal_mount_point(path).map_err(|why| invalid(&format!("{flag}: {why}")))
}

fn invalid(message: &str) -> PlanError {
    PlanError::invalid(message).remediation("use a separate directory in the guest, such as /data")
}

/// The path without `.` and double slashes, or why no disk can be mounted there.
fn normal_mount_point(path: &str) -> Result<String, String> {
    let invalid = |why: &str| format!("invalid mount point {path:?}: {why}");
    if !path.starts_with('/') {
        return Err(invalid("not an absolute path"));
    }
    let mut normal = String::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => {
                normal.push('/');
                normal.push_str(&part.to_string_lossy());
            }
            Component::ParentDir => return Err(invalid("contains ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if normal.is_empty() {
        return Err(invalid("the root belongs to the image"));
    }
    let below = |own: &&&str| Path::new(&normal).starts_with(own);
    match RESERVED_MOUNTS.iter().find(below) {
        Some(own) => Err(invalid(&format!("{own} belongs to the kernel"))),
        None => Ok(normal),
    }
}
