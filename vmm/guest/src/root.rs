//! Mounts the image's root file system, switches to it, and sets it up as container engines do.

use std::ffi::CStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microagent_proto::agent::Root;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_move, move_mount, open_tree,
};

use crate::directory;
use crate::spawn::KERNEL_MOUNT;
use crate::uevent::Uevents;

/// The time limit for a disk to appear.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// The mount point of the new root before the switch.
const NEW_ROOT: &str = "/newroot";

/// Why the root could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The device name contains other characters than letters and digits.
    #[error("invalid block device name {0:?}")]
    DeviceName(String),
    /// The disk did not appear.
    #[error("the disk /dev/{0} did not appear")]
    NoDisk(String),
    /// The disk cannot be mounted.
    #[error("cannot mount /dev/{device} ({fs_type}) as the root")]
    Mount {
        /// Its name below `/dev`.
        device: String,
        /// The requested file system type.
        fs_type: String,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The root is mounted, but switching to it failed.
    #[error("cannot switch to the root file system")]
    Switch(#[source] io::Error),
    /// A required directory is missing and cannot be created.
    #[error("the image has no usable directory {path}")]
    MountPoint {
        /// The directory.
        path: PathBuf,
        /// The error from the kernel.
        source: io::Error,
    },
    /// A kernel file system cannot be mounted.
    #[error("cannot mount {path}")]
    KernelMount {
        /// The mount point.
        path: PathBuf,
        /// The error from the kernel.
        source: io::Error,
    },
    /// `/etc/hosts`, `/etc/hostname` or `/etc/resolv.conf` cannot be written.
    #[error("cannot write {path}")]
    Names {
        /// The file.
        path: PathBuf,
        /// The error from the kernel.
        source: io::Error,
    },
}

/// Mounts `root`, makes it the root directory of this process and its children, and sets up the
/// kernel's file systems in it.
///
/// `/proc`, `/sys` and `/dev` are moved into it. `/proc` is the agent's: commands have others
/// ([`crate::namespaces`]).
pub fn switch_to(root: &Root, uevents: &Uevents) -> Result<(), RootError> {
    mount_disk(root, uevents)?;
    let moved = MOVED
        .iter()
        .map(|path| {
            let tree = open_tree(CWD, *path, OpenTreeFlags::OPEN_TREE_CLOEXEC);
            Ok((*path, tree.map_err(|e| RootError::Switch(e.into()))?))
        })
        .collect::<Result<Vec<_>, RootError>>()?;
    move_to_root(Path::new(NEW_ROOT)).map_err(RootError::Switch)?;
    for (path, tree) in moved {
        make_directory(path)?;
        move_mount(
            &tree,
            "",
            CWD,
            path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|e| RootError::KernelMount {
            path: path.into(),
            source: e.into(),
        })?;
    }
    for point in MOUNTS {
        point.mount()?;
    }
    for (link, target) in DEVICE_LINKS {
        match symlink(target, link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => {
                return Err(RootError::MountPoint {
                    path: link.into(),
                    source,
                });
            }
        }
    }
    Ok(())
}

fn mount_disk(root: &Root, uevents: &Uevents) -> Result<(), RootError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    if root.device.is_empty() || !root.device.bytes().all(plain) {
        return Err(RootError::DeviceName(root.device.clone()));
    }
    let node = Path::new("/dev").join(&root.device);
    let failed = |source: io::Error| RootError::Mount {
        device: root.device.clone(),
        fs_type: root.fs_type.clone(),
        source,
    };
    // devtmpfs creates the node before the kernel sends the event.
    uevents
        .wait_for(DISK_TIMEOUT, || Ok(node.exists().then_some(())))
        .map_err(failed)?
        .ok_or_else(|| RootError::NoDisk(root.device.clone()))?;
    let flags = if root.read_only {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    mount(&node, NEW_ROOT, root.fs_type.as_str(), flags, None).map_err(|e| failed(e.into()))
}

/// Makes the mount at `directory` the root. Like switch_root(8): the initramfs cannot be unmounted,
/// so the new root is moved over it.
pub fn move_to_root(directory: &Path) -> io::Result<()> {
    rustix::process::chdir(directory)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// A mount of a kernel file system.
struct KernelMount {
    path: &'static str,
    fs_type: &'static str,
    flags: MountFlags,
    data: Option<&'static CStr>,
}

const NOSUID: MountFlags = MountFlags::NOSUID;

/// The mounts that are moved into the root. The options, which [`crate::boot`] sets, are those of
/// container engines, except that `/sys` is writable: the guest has its own kernel.
const MOVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Further mounts, in mount order, all of them optional: a mount is skipped if the kernel lacks its
/// file system. The options are those of container engines.
const MOUNTS: [KernelMount; 4] = [
    TERMINALS,
    KernelMount {
        path: "/dev/shm",
        fs_type: "tmpfs",
        flags: NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=1777"),
    },
    KernelMount {
        path: "/dev/mqueue",
        fs_type: "mqueue",
        flags: KERNEL_MOUNT,
        data: None,
    },
    KernelMount {
        path: "/sys/fs/cgroup",
        fs_type: "cgroup2",
        flags: KERNEL_MOUNT,
        data: None,
    },
];

const TERMINALS: KernelMount = KernelMount {
    path: "/dev/pts",
    fs_type: "devpts",
    flags: NOSUID.union(MountFlags::NOEXEC),
    data: Some(c"newinstance,gid=5,mode=0620,ptmxmode=0666"),
};

/// Mounts the file system of terminals.
pub fn mount_terminals() -> Result<(), RootError> {
    TERMINALS.mount()
}

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
];

impl KernelMount {
    fn mount(&self) -> Result<(), RootError> {
        // The mount point in sysfs is missing if the kernel lacks the file system.
        if make_directory(self.path).is_err() {
            return Ok(());
        }
        match mount(self.fs_type, self.path, self.fs_type, self.flags, self.data) {
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            Err(error) => Err(RootError::KernelMount {
                path: self.path.into(),
                source: error.into(),
            }),
        }
    }
}

fn make_directory(path: &str) -> Result<(), RootError> {
    directory::create(path).map_err(|source| RootError::MountPoint {
        path: path.into(),
        source,
    })
}

/// Writes `/etc/hosts` and `/etc/hostname`. The image's files name the machine on which it was
/// built; container engines replace them, too.
pub fn write_names(hostname: &str, read_only: bool) -> Result<(), RootError> {
    if read_only {
        return Ok(());
    }
    let hosts = format!(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         127.0.1.1\t{hostname}\n"
    );
    replace(Path::new("/etc/hosts"), &hosts)?;
    replace(Path::new("/etc/hostname"), &format!("{hostname}\n"))
}

/// Writes `/etc/resolv.conf`.
pub fn write_resolver(text: &str, read_only: bool) -> Result<(), RootError> {
    match read_only {
        true => Ok(()),
        false => replace(Path::new("/etc/resolv.conf"), text),
    }
}

/// Replaces the file. If it is a symbolic link, the link is replaced, not its target.
fn replace(path: &Path, text: &str) -> Result<(), RootError> {
    fn try_replace(path: &Path, text: &str) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            directory::create(parent)?;
        }
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::write(path, text)
    }
    try_replace(path, text).map_err(|source| RootError::Names {
        path: path.to_owned(),
        source,
    })
}
