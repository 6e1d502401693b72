//! Real kernels: the distribution's package, installed through apt, and files that users mistake
//! for a kernel.
//!
//! The package is downloaded once for all tests. On a host without apt the tests record that and
//! skip.

#![allow(
    clippy::unwrap_used,
    reason = "Clippy exempts test functions, but not the functions they call"
)]

mod address;
mod distribution;
mod files;
mod modules;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use microagent_cas::{Digest, Store};
use microagent_pipeline::{
    Error, ErrorKind, Event, Kernel, KernelSource, Pipeline, Progress, Silent,
};

fn pipeline(dir: &Path) -> Pipeline {
    Pipeline::new(Store::open(&dir.join("cas")).unwrap(), Arc::new(Silent))
}

fn has_apt() -> bool {
    let exists = Path::new("/usr/bin/apt-get").exists();
    if !exists {
        microagent_tests::skip::record("this host has no apt-get");
    }
    exists
}

/// A cloud kernel's package, unpacked with standard tools.
#[derive(Debug)]
struct Package {
    deb: PathBuf,
    tree: PathBuf,
    vmlinux: Vec<u8>,
}

impl Package {
    /// Downloads the newest one. `apt` holds options for apt's programs, which select the package
    /// lists.
    fn download(name: &str, apt: &str) -> Package {
        let dir = empty_dir(name);
        let script = format!(
            "p=$(apt-cache {apt} depends --important linux-image-cloud-amd64 \
             | sed -n 's/^ *Depends: //p') && apt-get {apt} -q download \"$p\" && ls -1 *.deb"
        );
        let run = Command::new("sh")
            .args(["-c", &script])
            .current_dir(&dir)
            .output()
            .unwrap();
        let listed = String::from_utf8(run.stdout).unwrap();
        let deb = dir.join(listed.lines().last().unwrap());
        let tree = empty_dir(&format!("{name}-tree"));
        let run = Command::new("dpkg-deb")
            .arg("-x")
            .args([&deb, &tree])
            .output();
        assert!(run.unwrap().status.success());
        let mut package = Package {
            deb,
            tree,
            vmlinux: Vec::new(),
        };
        package.vmlinux = unpack(&package.file("boot", "vmlinuz-"), &dir);
        package
    }

    /// Reads the file whose name starts with `name`.
    fn file(&self, directory: &str, name: &str) -> Vec<u8> {
        let find = Command::new("find")
            .arg(self.tree.join(directory))
            .args(["-type", "f", "-name", &format!("{name}*")])
            .output()
            .unwrap();
        let paths = String::from_utf8(find.stdout).unwrap();
        let [path] = paths.lines().collect::<Vec<_>>()[..] else {
            panic!("{name}: {paths:?}")
        };
        fs::read(path).unwrap()
    }

    fn release(&self) -> String {
        let name = self.deb.file_name().unwrap().to_str().unwrap();
        let release = name.strip_prefix("linux-image-").unwrap().split('_').next();
        release.unwrap().to_owned()
    }
}

/// Extracts the kernel from a bzImage as the kernel's `extract-vmlinux` does: runs the
/// decompressor from the magic number on.
fn unpack(image: &[u8], dir: &Path) -> Vec<u8> {
    let legacy_frame = [0x02, 0x21, 0x4c, 0x18];
    let start = image
        .windows(4)
        .position(|bytes| bytes == legacy_frame)
        .unwrap();
    fs::write(dir.join("payload"), &image[start..]).unwrap();
    let payload = fs::File::open(dir.join("payload")).unwrap();
    // lz4 fails at the data after the payload, but has written the kernel by then.
    let output = Command::new("lz4")
        .arg("-dc")
        .stdin(payload)
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(b"\x7fELF"));
    output.stdout
}

/// The package in the host's package lists.
fn package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| Package::download("kernel-package", ""))
}

/// The distribution's current package; the host's lists may be older.
fn current_package() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let lists = empty_dir("package-lists");
        fs::create_dir(lists.join("partial")).unwrap();
        let apt = format!("-o Dir::State::lists={}", lists.display());
        // Fails if one of the host's sources is broken, but downloads the others first.
        let _ = Command::new("sh")
            .args(["-c", &format!("apt-get {apt} -q update")])
            .output()
            .unwrap();
        Package::download("current-kernel-package", &apt)
    })
}

/// Creates an empty directory in cargo's directory for tests. A static is never dropped, so a
/// temporary directory would be left behind.
fn empty_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn check_cloud_kernel(kernel: &Kernel, store: &Store, package: &Package) {
    assert_eq!(kernel.digest, Digest::of(&package.vmlinux));
    let length = fs::read(&kernel.path).unwrap().len();
    assert_eq!(length, package.vmlinux.len());
    assert_eq!(kernel.version, Some(package.release()));
    let mut names = check_modules(kernel, store, package);
    names.sort();
    assert_eq!(
        names,
        [
            "failover.ko",
            "net_failover.ko",
            "virtio.ko",
            "virtio_blk.ko",
            "virtio_mmio.ko",
            "virtio_net.ko",
            "virtio_ring.ko",
            "virtio_rng.ko",
            "vmw_vsock_virtio_transport.ko",
            "vmw_vsock_virtio_transport_common.ko",
            "vsock.ko",
        ]
    );
}

/// Returns the names of the kernel's modules in load order. Checks that their content is that of
/// the real package and that no module precedes one it depends on.
fn check_modules(kernel: &Kernel, store: &Store, package: &Package) -> Vec<String> {
    let modules = store.open_blob(&kernel.modules.unwrap()).unwrap().unwrap();
    let mut archive = tar::Archive::new(modules.file);
    let mut names = Vec::new();
    let mut dependents = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let file = if name == "virtio_rng.ko" {
            "virtio-rng.ko"
        } else {
            &name
        };
        assert!(bytes == package.file("lib/modules", file), "{name}");
        let dependent = dependents.get(&name);
        assert_eq!(
            dependent, None,
            "{name} is loaded after a module that depends on it"
        );
        for dependency in depends(&bytes) {
            // A dependency that is not loaded at all is built in.
            if !names.contains(&dependency) {
                dependents.insert(dependency, name.clone());
            }
        }
        names.push(name);
    }
    names
}

/// The files of the modules in a module's `depends=`.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let start = module.windows(key.len()).position(|bytes| bytes == key);
    let value = &module[start.unwrap() + key.len()..];
    let value = value.split(|byte| *byte == 0).next().unwrap();
    let names = std::str::from_utf8(value).unwrap().split(',');
    let names = names.filter(|name| !name.is_empty());
    names.map(|name| format!("{name}.ko")).collect()
}

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Progress for Notices {
    fn event(&self, event: Event) {
        if let Event::Notice(notice) = event {
            self.0.lock().unwrap().push(notice);
        }
    }
}
