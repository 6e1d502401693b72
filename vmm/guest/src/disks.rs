//! Disks besides the root: found by their serial numbers, mounted where they belong.
//!
//! They are mounted as container engines mount volumes: with no options but read-only, so programs
//! and devices on them work. What the image has at the mount point is covered, not copied.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use microagent_proto::agent::Disk;
use rustix::mount::{MountFlags, mount};

use crate::root::DISK_TIMEOUT;
use crate::uevent::Uevents;

/// Where the kernel lists block devices.
const BLOCK_DEVICES: &str = "/sys/block";

/// Why a disk is not there.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The mount point is no absolute path, or leads upwards.
    #[error("the disk {name} cannot be mounted at {mount:?}")]
    BadMountPoint {
        /// The disk.
        name: String,
        /// The path.
        mount: String,
    },
    /// The device did not appear.
    #[error("the disk {0} did not appear")]
    Missing(String),
    /// Device events cannot be waited for.
    #[error("cannot wait for the disk {name}")]
    Wait {
        /// The disk.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The image has no such directory, and it cannot be made.
    #[error("cannot make the directory {mount} for the disk {name}")]
    Directory {
        /// The disk.
        name: String,
        /// The directory.
        mount: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The disk cannot be mounted.
    #[error("cannot mount the disk {name} ({fs_type}) at {mount}")]
    Mount {
        /// The disk.
        name: String,
        /// Where.
        mount: String,
        /// The file system type asked for.
        fs_type: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Mounts all of them, parents before what is below them. The answer is where, in that order.
pub fn mount_all(disks: &[Disk], uevents: &Uevents) -> Result<Vec<PathBuf>, DiskError> {
    let mut mounted = Vec::new();
    for disk in parents_first(disks) {
        mount_one(disk, uevents)?;
        mounted.push(PathBuf::from(&disk.mount));
    }
    Ok(mounted)
}

/// A path has more parts than the paths above it.
fn parents_first(disks: &[Disk]) -> Vec<&Disk> {
    let mut disks: Vec<&Disk> = disks.iter().collect();
    disks.sort_by_key(|disk| Path::new(&disk.mount).components().count());
    disks
}

fn mount_one(disk: &Disk, uevents: &Uevents) -> Result<(), DiskError> {
    let name = || disk.name.clone();
    let point = || disk.mount.clone();
    let path = Path::new(&disk.mount);
    let upwards = path.components().any(|part| part.as_os_str() == "..");
    if !path.is_absolute() || upwards {
        return Err(DiskError::BadMountPoint {
            name: name(),
            mount: point(),
        });
    }
    let device = uevents
        .wait_for(DISK_TIMEOUT, || find(&disk.serial))
        .map_err(|source| DiskError::Wait {
            name: name(),
            source,
        })?
        .ok_or_else(|| DiskError::Missing(name()))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| DiskError::Directory {
            name: name(),
            mount: point(),
            source,
        })?;
    let flags = match disk.read_only {
        true => MountFlags::RDONLY,
        false => MountFlags::empty(),
    };
    mount(&device, path, disk.fs_type.as_str(), flags, None).map_err(|error| DiskError::Mount {
        name: name(),
        mount: point(),
        fs_type: disk.fs_type.clone(),
        source: error.into(),
    })
}

/// The device node of the disk with this serial number.
fn find(serial: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(BLOCK_DEVICES)? {
        let entry = entry?;
        // Devices without one do not have the file, or have it empty.
        let Ok(found) = std::fs::read_to_string(entry.path().join("serial")) else {
            continue;
        };
        let node = Path::new("/dev").join(entry.file_name());
        if found.trim_end() == serial && node.exists() {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_mounted_before_what_is_below_them() {
        let disk = |mount: &str| Disk {
            name: mount.into(),
            serial: String::new(),
            mount: mount.into(),
            fs_type: "ext4".into(),
            read_only: false,
        };
        let disks = ["/a/b/c", "/z", "/a/b", "/a"].map(disk);
        let order: Vec<_> = parents_first(&disks)
            .iter()
            .map(|disk| &*disk.mount)
            .collect();
        assert_eq!(order, ["/z", "/a", "/a/b", "/a/b/c"]);
    }
}
