//! The tools commonly combined for the same result: `skopeo copy`, `umoci unpack`, `mke2fs -d`.

use std::fs;
use std::path::Path;
use std::process::Command;

use microagent_tests::{skip, tool};
use serde::Serialize;

use crate::Error;
use crate::measured::{self, Cost};

/// One of the tools.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Program and subcommand.
    pub name: &'static str,
    /// Its cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Builds an ext4 file of `size` bytes from an image in a registry, with one tool after the other.
/// Removes `directory` afterwards, which is not measured.
///
/// # Errors
/// When a tool is missing or fails.
pub fn build(image: &str, size: u64, directory: &Path) -> Result<Vec<Step>, Error> {
    fs::create_dir_all(directory).map_err(Error::file(directory))?;
    let layout = format!("{}:image", directory.join("layout").display());
    let bundle = directory.join("bundle");
    let mut steps = Vec::new();

    let mut skopeo = command("skopeo")?;
    skopeo.args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
    ]);
    skopeo.args([format!("docker://{image}"), format!("oci:{layout}")]);
    steps.push(step("skopeo copy", &mut skopeo)?);

    let mut umoci = command("umoci")?;
    umoci.args(["unpack", "--image", &layout]);
    if !skip::is_root() {
        umoci.arg("--rootless");
    }
    steps.push(step("umoci unpack", umoci.arg(&bundle))?);

    let mut mke2fs = command("mke2fs")?;
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(bundle.join("rootfs"));
    mke2fs
        .arg(directory.join("rootfs.ext4"))
        .arg(format!("{}k", size / 1024));
    steps.push(step("mke2fs -d", &mut mke2fs)?);

    fs::remove_dir_all(directory).map_err(Error::file(directory))?;
    Ok(steps)
}

fn command(program: &str) -> Result<Command, Error> {
    let mut command = Command::new(tool::find(program)?);
    command.env("LC_ALL", "C");
    Ok(command)
}

fn step(name: &'static str, command: &mut Command) -> Result<Step, Error> {
    let (cost, _) = measured::run(command)?;
    Ok(Step { name, cost })
}
