//! What happens to the host below the product.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::{Error, tool};

/// What may be done to the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// The state directory is the root of a file system that nobody else uses, so that it may be
    /// filled and mounted read-only.
    pub own_file_system: bool,
    /// The host's clock may be set.
    pub own_clock: bool,
    /// The VMs are processes of QEMU.
    pub qemu: bool,
}

/// A file that takes all free space of a file system. Dropping it frees that.
#[derive(Debug)]
pub struct Full(PathBuf);

impl Full {
    /// Fills the file system of `directory`.
    pub fn fill(directory: &Path) -> Result<Full, Error> {
        let path = directory.join(".full");
        let full = Full(path.clone());
        let file = File::create(&path).map_err(Error::file(&path))?;
        let (mut offset, mut size) = (0, 1 << 30);
        // Down to less than a block.
        while size >= 1 << 10 {
            match fallocate(&file, FallocateFlags::empty(), offset, size) {
                Ok(()) => offset += size,
                Err(Errno::NOSPC) => size /= 2,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::file(&path)(error.into())),
            }
            // What a failed call has allocated beyond the end of the file counts as well.
        }
        Ok(full)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Mounts the file system read-only or writable. `false` if it is busy.
pub fn remount(directory: &Path, options: &str) -> Result<bool, Error> {
    let mut mount = Command::new(tool::find("mount")?);
    mount
        .args(["-o", &format!("remount,{options}")])
        .arg(directory);
    let status = mount
        .stderr(Stdio::null())
        .status()
        .map_err(Error::file(directory))?;
    Ok(status.success())
}

/// Sets the host's clock back or forth.
pub fn shift_clock(seconds: i64) -> Result<(), Error> {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let then = i64::try_from(now.as_secs()).unwrap_or_default() + seconds;
    tool::run("date", ["-u", "-s", &format!("@{then}")]).map(drop)
}
