//! Kernels from the real world: the distribution's own package, through its own client, and what
//! people give for a kernel by mistake.
//!
//! The package is downloaded once for all tests. On a host without apt the tests say so and skip.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic, in its own functions too"
)]

mod address;
mod distribution;
mod files;

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
    let there = Path::new("/usr/bin/apt-get").exists();
    if !there {
        microagent_tests::skip::record("this host has no apt-get");
    }
    there
}

/// The newest cloud kernel's package, by hand.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let dir = own_dir("kernel-package");
        let script = "p=$(apt-cache depends --important linux-image-cloud-amd64 \
                      | sed -n 's/^ *Depends: //p') && apt-get -q download \"$p\" && ls -1 *.deb";
        let run = Command::new("sh")
            .args(["-c", script])
            .current_dir(&dir)
            .output()
            .unwrap();
        let listed = String::from_utf8(run.stdout).unwrap();
        dir.join(listed.lines().last().unwrap())
    })
}

/// A file of the package by the beginning of its name, unpacked by dpkg-deb.
fn in_package(directory: &str, name: &str) -> Vec<u8> {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let dir = own_dir("kernel-tree");
        let run = Command::new("dpkg-deb")
            .arg("-x")
            .arg(package())
            .arg(&dir)
            .output();
        assert!(run.unwrap().status.success());
        dir
    });
    let find = Command::new("find")
        .arg(tree.join(directory))
        .args(["-type", "f", "-name", &format!("{name}*")])
        .output()
        .unwrap();
    let paths = String::from_utf8(find.stdout).unwrap();
    let [path] = paths.lines().collect::<Vec<_>>()[..] else {
        panic!("{name}: {paths:?}")
    };
    fs::read(path).unwrap()
}

/// An empty directory in cargo's own place for tests: statics are never dropped, so a temporary
/// directory would stay behind.
fn own_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn release() -> String {
    let name = package().file_name().unwrap().to_str().unwrap();
    name.strip_prefix("linux-image-")
        .unwrap()
        .split('_')
        .next()
        .unwrap()
        .to_owned()
}

/// The kernel inside the package's bzImage, taken out as the kernel's own `extract-vmlinux` does:
/// from where the compressed form begins, by its tool.
fn vmlinux() -> &'static [u8] {
    static VMLINUX: OnceLock<Vec<u8>> = OnceLock::new();
    VMLINUX.get_or_init(|| {
        let image = in_package("boot", "vmlinuz-");
        let legacy_frame = [0x02, 0x21, 0x4c, 0x18];
        let start = image
            .windows(4)
            .position(|bytes| bytes == legacy_frame)
            .unwrap();
        let dir = own_dir("vmlinux");
        fs::write(dir.join("payload"), &image[start..]).unwrap();
        let payload = fs::File::open(dir.join("payload")).unwrap();
        // What follows the payload is no lz4, which lz4 says once it has written the kernel.
        let output = Command::new("lz4")
            .arg("-dc")
            .stdin(payload)
            .output()
            .unwrap();
        assert!(output.stdout.starts_with(b"\x7fELF"));
        output.stdout
    })
}

fn check_cloud_kernel(kernel: &Kernel, store: &Store) {
    assert_eq!(kernel.digest, Digest::of(vmlinux()));
    assert_eq!(fs::read(&kernel.path).unwrap().len(), vmlinux().len());
    assert_eq!(kernel.version, Some(release()));
    assert_eq!(
        check_modules(kernel, store),
        [
            "virtio_ring.ko",
            "virtio.ko",
            "virtio_mmio.ko",
            "virtio_blk.ko",
            "vsock.ko",
            "vmw_vsock_virtio_transport_common.ko",
            "vmw_vsock_virtio_transport.ko",
            "virtio_rng.ko",
        ]
    );
}

/// The names of the kernel's modules in load order; their bytes are those of the real package.
fn check_modules(kernel: &Kernel, store: &Store) -> Vec<String> {
    let modules = store.open_blob(&kernel.modules.unwrap()).unwrap().unwrap();
    let mut archive = tar::Archive::new(modules.file);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let file = if name == "virtio_rng.ko" {
            "virtio-rng.ko"
        } else {
            &name
        };
        assert!(bytes == in_package("lib/modules", file), "{name}");
        name
    });
    entries.collect()
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
