//! The kernel's modprobe: loads the modules for a name that the kernel requests.
//!
//! The kernel runs the program that `/proc/sys/kernel/modprobe` names, as `PROGRAM -q -- NAME`, in
//! the namespaces and with the root directory of PID 1 (kernel/kmod.c, kernel/umh.c). `NAME` is a
//! module or one of the names that modules declare, such as `fs-overlay`. The requester waits, and
//! then tries again whether what it needs exists.
//!
//! The modules are where the agent mounts them ([`crate::module_disk`]). A kernel that came without
//! them may find its modules in the image: then the image's modprobe is run.

mod index;
mod pattern;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use self::index::Index;
use crate::modules;

/// The program of this name in the image, if there is one.
const MODPROBE: &str = "/sbin/modprobe";

/// The name that the kernel requests with these arguments; `None` if it did not start this process.
pub fn requested(arguments: &[OsString]) -> Option<&str> {
    match arguments {
        [_, quiet, end, name] if quiet == "-q" && end == "--" => name.to_str(),
        _ => None,
    }
}

/// The directory of the running kernel's modules.
pub fn directory() -> PathBuf {
    let kernel = rustix::system::uname();
    Path::new("/lib/modules").join(&*kernel.release().to_string_lossy())
}

/// The whole process that the kernel starts: loads the modules for `name`.
pub fn run(name: &str) -> ExitCode {
    match load(name) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => without_modules(name),
    }
}

/// Loads the modules for `name`; returns whether one was loaded, or was before.
///
/// # Errors
/// When the kernel came without modules.
pub fn load(name: &str) -> io::Result<bool> {
    let directory = directory();
    let index = Index::read(&directory)?;
    let mut loaded = false;
    for path in index.modules_for(name) {
        match modules::load(&directory.join(&path)) {
            Ok(()) => loaded = true,
            Err(error) => log(&format!("cannot load the kernel module {path}: {error}")),
        }
    }
    Ok(loaded)
}

/// Leaves the request to the image's modprobe, which takes the place of this process.
fn without_modules(name: &str) -> ExitCode {
    let error = Command::new(MODPROBE).args(["-q", "--", name]).exec();
    if error.kind() == io::ErrorKind::NotFound {
        log(&format!(
            "the kernel has no {name:?} built in, and was installed without modules"
        ));
    }
    ExitCode::FAILURE
}

/// Writes a line to the kernel's log, whose level hides it from a quiet console.
fn log(line: &str) {
    if let Ok(mut log) = File::options().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("<6>microagent-guest: {line}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_arguments_are_a_request() {
        let requested = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            super::requested(&arguments).map(str::to_owned)
        };
        assert_eq!(
            requested(&["/proc/1/exe", "-q", "--", "fs-overlay"]).as_deref(),
            Some("fs-overlay")
        );
        for other in [
            &["/init"][..],
            &["/init", "-q", "--"],
            &["/init", "-q", "fs-overlay", "--"],
            &["/init", "-q", "--", "a", "b"],
        ] {
            assert_eq!(requested(other), None);
        }
    }
}
