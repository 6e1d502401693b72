//! What a run sees of this machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Invocation, left_behind};
use crate::{Error, binaries, cache, lab, tool};

/// How long after the end of the command line its helpers may still be about.
const GRACE: Duration = Duration::from_secs(3);

/// What the command line sees of this machine.
#[derive(Debug)]
pub struct Host {
    root: TempDir,
}

impl Host {
    /// A machine on which microagent has never run.
    pub fn new() -> Result<Host, Error> {
        // Directly below /tmp: the paths of sockets are limited.
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

    /// A machine on which `kernel install` has been done, from the package in the cache.
    pub fn with_kernel() -> Result<Host, Error> {
        let package = lab::kernel()?.package;
        let program = binaries::microagent();
        let made = fs::metadata(&program).map_err(Error::file(&program))?;
        let key = format!(
            "kernel-{}-{}.{}",
            made.size(),
            made.mtime(),
            made.mtime_nsec()
        );
        let template = cache::entry_in(&binaries::scratch(), &key, |directory| {
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

    /// Makes this machine's state what it is in `template`.
    pub(crate) fn copy_state_from(&self, template: &Path) -> Result<(), Error> {
        copy(template, &self.state())
    }

    /// Keeps this machine's state in `template`.
    pub(crate) fn copy_state_to(&self, template: &Path) -> Result<(), Error> {
        copy(&self.state(), template)
    }

    /// The state directory; the command line makes it.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// A path below this machine's home, which is where command lines are run, for the test's own
    /// files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("home").join(name)
    }

    /// A command line to be run.
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

    /// A shell script to be run, which finds `microagent` by its name.
    pub fn shell(&self, script: &str) -> Invocation {
        let mut invocation = self.program(Path::new("/bin/sh"));
        invocation.argument("-c").argument(script);
        invocation
    }

    /// Any program to be run with the environment that [`Host::microagent`] has.
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
            .current_dir(root.join("home"));
        Invocation::new(command)
    }

    /// Fails the test when a run left anything behind: a process, a mount, a loop device, a
    /// temporary file, a run directory, a workspace.
    ///
    /// # Panics
    ///
    /// Then.
    pub fn assert_clean(&self) {
        let left = left_behind::of(self.root.path(), GRACE);
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// The processes of this machine, once the grace for their end is over or they are gone.
    pub fn processes(&self) -> Vec<String> {
        left_behind::processes(self.root.path(), GRACE)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let flags: [&OsStr; 2] = ["-a".as_ref(), "--reflink=auto".as_ref()];
    tool::run(
        "cp",
        flags.into_iter().chain([from.as_os_str(), to.as_os_str()]),
    )
    .map(drop)
}
