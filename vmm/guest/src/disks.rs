//! Disks other than the root: found by serial number and mounted.
//!
//! They are mounted as container engines mount volumes: with no options but read-only, so programs
//! and devices on them work. The image's content at the mount point is hidden, not copied.

use std::io;
use std::path::{Path, PathBuf};

use microagent_proto::agent::Disk;
use rustix::mount::{MountFlags, mount};

use crate::directory;
use crate::root::DISK_TIMEOUT;
use crate::uevent::Uevents;

/// Where the kernel lists block devices.
const BLOCK_DEVICES: &str = "/sys/block";

/// Why a disk could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The mount point is not an absolute path, or contains `..`.
    #[error("invalid mount point {mount:?} for the disk {name}")]
    BadMountPoint {
        /// The disk.
        name: String,
        /// The mount point.
        mount: String,
    },
    /// The device did not appear.
    #[error("the disk {0} did not appear")]
    Missing(String),
    /// Waiting for device events failed.
    #[error("cannot wait for the disk {name}")]
    Wait {
        /// The disk.
        name: String,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The device does not get its size.
    #[error("the disk {name} does not have {sectors} sectors")]
    Size {
        /// The name of the device.
        name: String,
        /// What it should have.
        sectors: u64,
    },
    /// The mount point does not exist and cannot be created.
    #[error("cannot create the directory {mount} for the disk {name}")]
    Directory {
        /// The disk.
        name: String,
        /// The directory.
        mount: String,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The disk cannot be mounted.
    #[error("cannot mount the disk {name} ({fs_type}) at {mount}")]
    Mount {
        /// The disk.
        name: String,
        /// The mount point.
        mount: String,
        /// The requested file system type.
        fs_type: String,
        /// The error from the kernel.
        source: io::Error,
    },
}

/// Waits until the disks `vda`, `vdb` and so on have these sizes, in sectors of 512 bytes. After a VM was
/// restored, its kernel learns the sizes while it runs.
pub fn wait_for_sizes(sectors: &[u64], uevents: &Uevents) -> Result<(), DiskError> {
    let directory = Path::new(BLOCK_DEVICES);
    for (letter, &sectors) in ('a'..='z').zip(sectors) {
        let name = format!("vd{letter}");
        let has_size = || Ok((size_in(directory, &name) == Some(sectors)).then_some(()));
        let waited = uevents.wait_for(DISK_TIMEOUT, has_size);
        let found = waited.map_err(|source| DiskError::Wait {
            name: name.clone(),
            source,
        })?;
        found.ok_or(DiskError::Size { name, sectors })?;
    }
    Ok(())
}

/// The size of a block device, in sectors of 512 bytes.
fn size_in(directory: &Path, name: &str) -> Option<u64> {
    let size = std::fs::read_to_string(directory.join(name).join("size")).ok()?;
    size.trim_end().parse().ok()
}

/// Mounts all disks, parent directories first. Returns the mount points in that order.
pub fn mount_all(disks: &[Disk], uevents: &Uevents) -> Result<Vec<PathBuf>, DiskError> {
    let mut mounted = Vec::new();
    for disk in parents_first(disks) {
        mount_one(disk, uevents)?;
        mounted.push(PathBuf::from(&disk.mount));
    }
    Ok(mounted)
}

/// Sorts by the number of path components: a path has more than its parents.
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
    directory::create(path).map_err(|source| DiskError::Directory {
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

/// The device node of the disk with this serial number, if it exists.
pub fn find(serial: &str) -> io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(BLOCK_DEVICES)? {
        let entry = entry?;
        // Devices without a serial number have no such file, or an empty one.
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
    fn the_size_of_a_device_is_that_of_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("vdb")).unwrap();
        std::fs::write(directory.path().join("vdb/size"), "2048\n").unwrap();
        assert_eq!(size_in(directory.path(), "vdb"), Some(2048));
        assert_eq!(size_in(directory.path(), "vda"), None);
    }

    #[test]
    fn parent_directories_are_mounted_first() {
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
