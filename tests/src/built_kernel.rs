//! The guest kernel that `microagent kernel build` makes, compiled once for all tests.
//!
//! Compiling takes minutes, so the state directory it was done in is kept in the cache, under what
//! the kernel is made from: the source package, the fragment, the compiler. What the product makes
//! of a key is its own affair: it is asked again with the cached state, and compiles where it finds
//! that something has changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::microagent::Host;
use crate::{Error, cache, tool};

/// The package that the product takes the source from.
pub const PACKAGE: &str = "linux-source-6.1";

/// What decides the kernel's bytes, below the top directory.
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/src/kernel/build");

/// How long a build may take on a small, busy host.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The distribution's package with the kernel's source.
///
/// # Errors
/// [`Error::Missing`] where there is no apt.
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

/// A machine on which `kernel build` has been done.
///
/// # Errors
/// [`Error::Missing`] where there is no apt, or a tool that the build needs.
pub fn host() -> Result<Host, Error> {
    for program in ["make", "gcc", "ld", "flex", "bison", "bc"] {
        tool::find(program)?;
    }
    let source = source()?;
    let template = cache::entry(&key(&source)?, |directory| {
        let building = Host::new()?;
        build(&building, &source)?;
        building.copy_state_to(&directory.join("state"))
    })?;
    let host = Host::new()?;
    host.copy_state_from(&template.join("state"))?;
    build(&host, &source)?;
    Ok(host)
}

/// A name for what the kernel is made from.
fn key(source: &Path) -> Result<String, Error> {
    let entry = source.parent().and_then(Path::file_name);
    let version = entry.unwrap_or_default().to_string_lossy().into_owned();
    let script = format!("{{ cat {BUILD}/*; gcc --version; ld --version; }} | sha256sum");
    let sum = tool::text("sh", ["-c", &script])?;
    let sum = sum.get(..16).unwrap_or_default();
    Ok(version.replace("source", "built") + "-" + sum)
}

fn build(host: &Host, source: &Path) -> Result<(), Error> {
    let mut build = host.microagent(["kernel", "build", "--source"]);
    let finished = build.argument(source).deadline(DEADLINE).finish();
    match finished.code {
        Some(0) => Ok(()),
        _ => Err(Error::Unexpected {
            what: "kernel build failed".to_owned(),
            got: finished.errors(),
        }),
    }
}
