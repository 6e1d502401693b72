//! The isolated environment of a run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Invocation, left_behind};
use crate::namespaces::NAMESPACES;
use crate::{Error, binaries, cache, lab, tool};

/// Time after the exit of the command line in which its helpers must exit as well.
const GRACE: Duration = Duration::from_secs(3);

/// An isolated environment for the command line. See [the module](super).
#[derive(Debug)]
pub struct Host {
    root: TempDir,
}

impl Host {
    /// An environment in which microagent has never run.
    pub fn new() -> Result<Host, Error> {
        // Directly below /tmp, because the length of a socket path is limited.
        let root = tempfile::Builder::new()
            .prefix("ma-")
            .tempdir_in("/tmp")
            .map_err(Error::file("/tmp"))?;
        for directory in ["home", "tmp", "run"] {
            let path = root.path().join(directory);
            fs::create_dir(&path).map_err(Error::file(&path))?;
        }
        Ok(Host { root })
    }

    /// An environment in which `kernel install` has run, with the package in the cache.
    pub fn with_kernel() -> Result<Host, Error> {
        let package = lab::kernel()?.package;
        let template = template("kernel", |directory| {
            let installing = Host::new()?;
            let mut install = installing.microagent(["kernel", "install", "--from"]);
            let finished = install.argument(package).finish();
            assert_eq!(
                finished.code,
                Some(0),
                "kernel install: {}",
                finished.errors()
            );
            copy(&installing.state(), &directory.join("state"))
        })?;
        let host = Host::new()?;
        copy(&template.join("state"), &host.state())?;
        Ok(host)
    }

    /// Copies the state directory from `template`.
    pub(crate) fn copy_state_from(&self, template: &Path) -> Result<(), Error> {
        copy(template, &self.state())
    }

    /// Copies the state directory to `template`.
    pub(crate) fn copy_state_to(&self, template: &Path) -> Result<(), Error> {
        copy(&self.state(), template)
    }

    /// The state directory, which the command line creates.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// A path for files of the test, below the home directory, which is the working directory of
    /// command lines.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("home").join(name)
    }

    /// Prepares a run of `microagent`.
    pub fn microagent<A: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Invocation {
        let mut invocation = self.program(&binaries::microagent());
        for argument in arguments {
            invocation.argument(argument);
        }
        invocation
    }

    /// Prepares a run of a shell script with `microagent` in its `PATH`.
    pub fn shell(&self, script: &str) -> Invocation {
        let mut invocation = self.program(Path::new("/bin/sh"));
        invocation.argument("-c").argument(script);
        invocation
    }

    /// Prepares a run of a shell script, as [`Host::shell`], in a mount namespace of its own, where
    /// it may mount and unmount. Needs root.
    pub fn shell_with_mounts(&self, script: &str) -> Invocation {
        let mut invocation = self.program(Path::new("/usr/bin/unshare"));
        for argument in ["--mount", "--propagation", "private", "sh", "-c", script] {
            invocation.argument(argument);
        }
        invocation
    }

    /// Prepares a run of a shell script, as [`Host::shell`], in namespaces of its own: those of processes
    /// and mounts, and the one of microagent of [`NAMESPACES`]. Its processes end with it. Needs root.
    pub fn shell_in_namespaces(&self, script: &str) -> Invocation {
        let mut invocation = self.program(Path::new("/usr/bin/unshare"));
        for argument in ["--net", "--mount", "--pid", "--fork", "--kill-child"] {
            invocation.argument(argument);
        }
        invocation
            .argument("--mount-proc")
            .argument("sh")
            .argument("-c")
            .argument(format!("{NAMESPACES}{script}"));
        invocation
    }

    /// Prepares a run of any program in the same environment as [`Host::microagent`].
    pub fn program(&self, program: &Path) -> Invocation {
        let mut command = Command::new(program);
        let root = self.root.path();
        let programs = binaries::microagent();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            programs
                .parent()
                .map(Path::to_owned)
                .into_iter()
                .chain(std::env::split_paths(&path)),
        );
        command
            .env_clear()
            .env("PATH", path.unwrap_or_default())
            .env("HOME", root.join("home"))
            .env("TMPDIR", root.join("tmp"))
            .env("XDG_RUNTIME_DIR", root.join("run"))
            .env("MICROAGENT_STATE_DIR", self.state())
            .env("MICROAGENT_NETWORK", "isolated")
            .current_dir(root.join("home"));
        Invocation::new(command)
    }

    /// Checks that no run left a process, mount, loop device, temporary file, run directory or
    /// workspace behind.
    ///
    /// # Panics
    ///
    /// If one did.
    pub fn assert_clean(&self) {
        let left = left_behind::of(self.root.path(), GRACE);
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// Waits a few seconds for the processes of this environment to exit and lists those that
    /// remain.
    pub fn processes(&self) -> Vec<String> {
        left_behind::processes(self.root.path(), GRACE)
    }
}

/// Returns the directory that `make` has filled with what the program under test has made. It is made
/// again when the program changes.
pub(crate) fn template(
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    let program = binaries::microagent();
    let made = fs::metadata(&program).map_err(Error::file(&program))?;
    let key = format!(
        "{name}-{}-{}.{}",
        made.size(),
        made.mtime(),
        made.mtime_nsec()
    );
    cache::entry_in(&binaries::scratch(), &key, make)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let flags: [&OsStr; 2] = ["-a".as_ref(), "--reflink=auto".as_ref()];
    tool::run(
        "cp",
        flags.into_iter().chain([from.as_os_str(), to.as_os_str()]),
    )
    .map(drop)
}
