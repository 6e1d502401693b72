//! The modules of the guest's kernel: mounted from a disk of their own, and loaded on demand.
//!
//! The disk contains the directory of one release and is mounted there: `/lib/modules/RELEASE`. So
//! the image's modprobe finds them, and what else the image has in `/lib/modules` stays visible.
//! The kernel requests modules from this program ([`crate::modprobe`]), which it reaches as the
//! file of PID 1: the initramfs has no path any more once the image is the root.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount};

use crate::console::log;
use crate::directory;
use crate::disks::find;
use crate::modprobe;
use crate::root::DISK_TIMEOUT;
use crate::uevent::Uevents;

/// The program that the kernel runs to request a module.
const HELPER: (&str, &str) = ("/proc/sys/kernel/modprobe", "/proc/1/exe");

/// Devices that every user may open, as with every distribution's udev rules: the driver checks the
/// caller's rights when the device is used.
const FOR_ALL: [&str; 2] = ["/dev/fuse", "/dev/net/tun"];

/// Why the modules could not be mounted.
#[derive(Debug, thiserror::Error)]
enum ModulesError {
    #[error("the disk did not appear")]
    Missing,
    #[error("cannot wait for the disk")]
    Wait(#[source] io::Error),
    #[error("cannot create the directory {}", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    #[error("cannot mount the disk at {}", .0.display())]
    Mount(PathBuf, #[source] io::Error),
}

/// Mounts the disk with this serial number, if there is one, and becomes the kernel's modprobe. A
/// failure is logged: most commands need no module.
pub fn provide(serial: Option<&str>, uevents: &Uevents) {
    if let Some(serial) = serial {
        match mount_disk(serial, uevents) {
            Ok(directory) => make_nodes(&directory),
            Err(error) => log(&format!(
                "kernel modules are not available: {}",
                microagent_proto::error_chain(&error)
            )),
        }
    }
    for node in FOR_ALL {
        let _ = std::fs::set_permissions(node, Permissions::from_mode(0o666));
    }
    // A kernel without the module loader has no such file.
    if let Err(error) = std::fs::write(HELPER.0, HELPER.1)
        && error.kind() != io::ErrorKind::NotFound
    {
        log(&format!("cannot become the kernel's modprobe: {error}"));
    }
}

fn mount_disk(serial: &str, uevents: &Uevents) -> Result<PathBuf, ModulesError> {
    let device = uevents
        .wait_for(DISK_TIMEOUT, || find(serial))
        .map_err(ModulesError::Wait)?
        .ok_or(ModulesError::Missing)?;
    let directory = modprobe::directory();
    directory::create(&directory)
        .map_err(|error| ModulesError::Directory(directory.clone(), error))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match mount(&device, &directory, "ext4", flags, None) {
        Ok(()) => Ok(directory),
        Err(error) => Err(ModulesError::Mount(directory, error.into())),
    }
}

/// Creates the device nodes of `modules.devname`, as `kmod static-nodes` does: opening one loads
/// its driver.
fn make_nodes(directory: &Path) {
    let list = std::fs::read_to_string(directory.join("modules.devname")).unwrap_or_default();
    for (path, kind, major, minor) in list.lines().filter_map(parse_node) {
        if let Some(parent) = path.parent() {
            let _ = directory::create(parent);
        }
        // An existing node belongs to a driver that is loaded.
        let _ = mknodat(
            CWD,
            &path,
            kind,
            Mode::RUSR | Mode::WUSR,
            makedev(major, minor),
        );
    }
}

/// Parses a line such as `tun net/tun c10:200`.
fn parse_node(line: &str) -> Option<(PathBuf, FileType, u32, u32)> {
    let mut words = line.split(' ');
    let (Some(_), Some(name), Some(device), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !Path::new(name).components().all(plain) {
        return None;
    }
    let kind = match device.get(..1)? {
        "c" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        _ => return None,
    };
    let (major, minor) = device.get(1..)?.split_once(':')?;
    let path = Path::new("/dev").join(name);
    Some((path, kind, major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_created_below_dev_only() {
        let tun = (
            PathBuf::from("/dev/net/tun"),
            FileType::CharacterDevice,
            10,
            200,
        );
        assert_eq!(parse_node("tun net/tun c10:200"), Some(tun));
        let block = parse_node("x y b1:2").unwrap();
        assert_eq!(block.1, FileType::BlockDevice);
        for other in [
            "# Device nodes to trigger on-demand module loading.",
            "x ../y c1:2",
            "x /y c1:2",
            "x y u1:2",
            "x y \u{e9}1:2",
            "x y c1",
            "x y c1:2 z",
            "",
        ] {
            assert_eq!(parse_node(other), None, "{other}");
        }
    }
}
