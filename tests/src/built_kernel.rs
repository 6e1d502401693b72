//! The guest kernel built by `microagent kernel build`, compiled once for all tests.
//!
//! Compiling takes minutes, so the state directory of the build is cached, keyed by the inputs of
//! the kernel: the source package, the configuration fragment, the compiler. The build runs again
//! on a copy of the cached state, so the product itself decides whether it must compile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::microagent::{self, Host};
use crate::{Error, cache, image, tool};

/// The package with the kernel source that the product uses.
pub const PACKAGE: &str = "linux-source-6.1";

/// The configuration fragment of the kernel.
const FRAGMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../pipeline/src/kernel/build/microvm.config"
);

/// Time limit of a build on a small, busy host.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Downloads the distribution's package with the kernel source and returns its path.
///
/// # Errors
/// [`Error::Missing`] if the host has no apt.
pub fn source() -> Result<PathBuf, Error> {
    for program in ["apt-get", "apt-cache", "dpkg-deb"] {
        tool::find(program)?;
    }
    let shown = tool::text("apt-cache", ["show", "--no-all-versions", PACKAGE])?;
    let version = shown
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    let version = version.ok_or_else(|| Error::Missing {
        program: format!("the package {PACKAGE}"),
    })?;
    let key = format!("kernel-source-{}", version.replace(':', "-"));
    let entry = cache::entry(&key, |directory| {
        let mut download = Command::new("apt-get");
        let options = ["-q", "-oAcquire::Retries=3", "-oAPT::Sandbox::User="];
        download.args(options).args(["download", PACKAGE]);
        tool::output(download.current_dir(directory))?;
        let script = r#"mv -- *.deb source.deb"#;
        let mut rename = Command::new("sh");
        tool::output(rename.args(["-c", script]).current_dir(directory)).map(drop)
    })?;
    Ok(entry.join("source.deb"))
}

/// An environment in which `kernel build` has run.
///
/// # Errors
/// [`Error::Missing`] if the host lacks apt or a build tool.
pub fn host() -> Result<Host, Error> {
    static TEMPLATE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let state = {
        let mut known = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
        match known.clone() {
            Some(state) => state,
            None => known.insert(template()?).clone(),
        }
    };
    let host = Host::new()?;
    host.copy_state_from(&state)?;
    Ok(host)
}

/// As [`host`], and with the image of network clients ([`image::clients`]) in the store, so that each
/// VM with it need not convert it again. Returns the image's reference, too.
///
/// # Errors
/// As [`host`] and [`image::clients`].
pub fn host_with_clients() -> Result<(Host, String), Error> {
    let layout = image::clients()?;
    let reference = format!("oci:{}:clients", layout.display());
    let state = microagent::template("clients", |directory| {
        let host = host()?;
        for arguments in [
            &["--quiet", "create", "clients", "--image", &reference][..],
            &["--quiet", "delete", "clients"],
        ] {
            let finished = host.microagent(arguments.iter().copied()).finish();
            if finished.code != Some(0) {
                return Err(Error::Unexpected {
                    what: format!("{} failed", arguments.join(" ")),
                    got: finished.errors(),
                });
            }
        }
        host.copy_state_to(&directory.join("state"))
    })?;
    let host = Host::new()?;
    host.copy_state_from(&state.join("state"))?;
    Ok((host, reference))
}

/// Returns a state directory in which `kernel build` is a cache hit.
fn template() -> Result<PathBuf, Error> {
    for program in ["make", "gcc", "ld", "flex", "bison", "bc"] {
        tool::find(program)?;
    }
    let source = source()?;
    let key = key(&source)?;
    let entry = cache::entry(&key, |directory| {
        let building = Host::new()?;
        build(&building, &source)?;
        building.copy_state_to(&directory.join("state"))
    })?;
    // One process at a time checks that the product considers the entry up to date.
    cache::check(&key, |directory| {
        let asking = Host::new()?;
        asking.copy_state_from(&directory.join("state"))?;
        if !build(&asking, &source)? {
            let state = directory.join("state");
            std::fs::remove_dir_all(&state).map_err(Error::file(&state))?;
            asking.copy_state_to(&state)?;
        }
        Ok(())
    })?;
    Ok(entry.join("state"))
}

/// The cache key of the kernel's inputs.
fn key(source: &Path) -> Result<String, Error> {
    let entry = source.parent().and_then(Path::file_name);
    let version = entry.unwrap_or_default().to_string_lossy().into_owned();
    let script = format!("{{ grep -v '^#' {FRAGMENT}; gcc --version; ld --version; }} | sha256sum");
    let sum = tool::text("sh", ["-c", &script])?;
    let sum = sum.get(..16).unwrap_or_default();
    Ok(version.replace("source", "built") + "-" + sum)
}

/// Runs `kernel build`. Returns whether it was a cache hit.
fn build(host: &Host, source: &Path) -> Result<bool, Error> {
    let mut build = host.microagent(["--json", "kernel", "build", "--source"]);
    let finished = build.argument(source).deadline(DEADLINE).finish();
    match finished.code {
        Some(0) => Ok(finished.json()["node"]["hit"] == true),
        _ => Err(Error::Unexpected {
            what: "kernel build failed".to_owned(),
            got: finished.errors(),
        }),
    }
}
