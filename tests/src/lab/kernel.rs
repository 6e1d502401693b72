//! The lab's kernel: the distribution's cloud kernel and the modules that make it a KVM host.
//!
//! `apt-get download` verifies the package and needs no root; `dpkg-deb` unpacks it, and it is never
//! installed. Both are cached under the package's name and version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, cache, tool};

/// The metapackage whose dependency is the kernel's package.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Those of every lab, in load order. One that is absent is built in, or belongs to another version of
/// the kernel.
const MODULES: [&str; 11] = [
    "irqbypass",
    "kvm",
    "kvm-amd",
    "tun",
    "loop",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
];

/// A kernel package, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The package itself.
    pub package: PathBuf,
    /// The bzImage.
    pub image: PathBuf,
    /// The lab's modules in load order, uncompressed.
    pub modules: Vec<PathBuf>,
    /// Every module of the package.
    all: Vec<PathBuf>,
}

impl Kernel {
    /// Adds a module, after those that it depends on. One that is absent is built in.
    pub(super) fn add_module(&mut self, name: &str) -> Result<(), Error> {
        let named = |path: &PathBuf| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            stem.replace('-', "_") == name.replace('-', "_")
        };
        if self.modules.iter().any(named) {
            return Ok(());
        }
        let Some(path) = self.all.iter().find(|path| named(path)).cloned() else {
            return Ok(());
        };
        // The package has no modules.dep: depmod writes it when the package is installed.
        let arguments = [path.as_os_str(), "-F".as_ref(), "depends".as_ref()];
        let depends = tool::text("modinfo", arguments)?;
        for name in depends.trim().split(',').filter(|name| !name.is_empty()) {
            self.add_module(name)?;
        }
        self.modules.push(path);
        Ok(())
    }
}

/// The distribution's current cloud kernel, downloaded unless its version is in the cache.
pub fn kernel() -> Result<Kernel, Error> {
    for program in ["apt-get", "dpkg-deb", "find"] {
        tool::find(program)?;
    }
    let name = package_name()?;
    let entry = cache::entry(&format!("kernel-{name}"), |directory| {
        let mut download = Command::new("apt-get");
        download.args([
            "-q",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "APT::Sandbox::User=",
        ]);
        download.args(lists_options()?);
        download.args(["download", &name]).current_dir(directory);
        tool::output(&mut download)?;
        let package = only_file(directory, "deb")?;
        fs::rename(&package, directory.join("kernel.deb")).map_err(Error::file(&package))?;
        let mut unpack = Command::new("dpkg-deb");
        unpack
            .args(["-x", "kernel.deb", "tree"])
            .current_dir(directory);
        tool::output(&mut unpack)?;
        Ok(())
    })?;
    read(&entry)
}

fn read(entry: &Path) -> Result<Kernel, Error> {
    let tree = entry.join("tree");
    let files = tool::text("find", [tree.as_os_str(), "-type".as_ref(), "f".as_ref()])?;
    let find = |wanted: &dyn Fn(&str) -> bool| {
        files
            .lines()
            .find(|path| wanted(path.rsplit('/').next().unwrap_or_default()))
            .map(PathBuf::from)
    };
    let image = find(&|name| name.starts_with("vmlinuz-")).ok_or_else(|| Error::Unexpected {
        what: "no vmlinuz in the kernel's package".to_owned(),
        got: entry.display().to_string(),
    })?;
    let modules = MODULES
        .iter()
        .filter_map(|module| find(&|name| name == format!("{module}.ko")))
        .collect();
    let all = files.lines().filter(|path| path.ends_with(".ko"));
    Ok(Kernel {
        package: entry.join("kernel.deb"),
        image,
        modules,
        all: all.map(PathBuf::from).collect(),
    })
}

/// The package that the metapackage depends on, which has the kernel's version in its name.
///
/// The package's own version does not matter: a rebuild under the same name works as well.
fn package_name() -> Result<String, Error> {
    let mut query = Command::new("apt-cache");
    query.args(lists_options()?).args(["depends", METAPACKAGE]);
    let answer = tool::output(&mut query)?;
    let answer = String::from_utf8_lossy(&answer);
    answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or_else(|| Error::Unexpected {
            what: format!("apt-cache lists no dependency of {METAPACKAGE}"),
            got: answer.into_owned(),
        })
}

/// Options that make apt read its own package lists where the host's are missing.
fn lists_options() -> Result<Vec<String>, Error> {
    let known = tool::text("apt-cache", ["show", METAPACKAGE]).is_ok_and(|text| !text.is_empty());
    if known {
        return Ok(Vec::new());
    }
    let lists = cache::entry("apt-lists", |directory| {
        fs::create_dir(directory.join("partial")).map_err(Error::file(directory))?;
        let mut update = Command::new("apt-get");
        update
            .args(["-q", "-o", "APT::Sandbox::User="])
            .args(own_lists(directory));
        tool::output(update.arg("update")).map(drop)
    })?;
    Ok(own_lists(&lists))
}

fn own_lists(directory: &Path) -> Vec<String> {
    let lists = directory.display();
    vec![
        "-o".to_owned(),
        format!("Dir::State::lists={lists}/"),
        "-o".to_owned(),
        format!("Dir::Cache={lists}/"),
    ]
}

fn only_file(directory: &Path, extension: &str) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(directory).map_err(Error::file(directory))?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .ok_or_else(|| Error::Unexpected {
            what: format!("no .{extension} file was downloaded"),
            got: directory.display().to_string(),
        })
}
