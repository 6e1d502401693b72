//! A guest for tests: the distribution's cloud kernel, and an initramfs of busybox and a script.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::lab;
use microagent_tests::tool;

/// In load order.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
];

/// What boots.
pub struct Guest {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// A guest that runs `script` (for busybox's shell) and powers off; its initramfs is in `dir`.
pub fn guest(dir: &Path, script: &str) -> Guest {
    let kernel = lab::kernel().unwrap();
    let root = dir.join("initramfs");
    for sub in ["bin", "modules"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    let tree = kernel.package.with_file_name("tree");
    for module in MODULES {
        let name = format!("{module}.ko");
        let found =
            tool::text("find", [tree.as_os_str(), "-name".as_ref(), name.as_ref()]).unwrap();
        fs::copy(found.trim(), root.join("modules").join(&name)).unwrap();
    }
    fs::write(
        root.join("modules.load"),
        MODULES.map(|name| format!("{name}\n")).concat(),
    )
    .unwrap();
    fs::write(root.join("script"), script).unwrap();
    fs::copy(tool::find("busybox").unwrap(), root.join("bin/busybox")).unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest");
    let init = root.join("init");
    fs::copy(sources.join("init.sh"), &init).unwrap();
    tool::run("chmod", ["+x".as_ref(), init.as_os_str()]).unwrap();
    let mut compile = Command::new("rustc");
    compile.args([
        "--edition",
        "2024",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "panic=abort",
        "-o",
    ]);
    compile
        .arg(root.join("bin/vsock"))
        .arg(sources.join("vsock.rs"));
    tool::output(&mut compile).unwrap();
    let initramfs = dir.join("initramfs.cpio");
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc --quiet > \"$0\""])
        .arg(&initramfs)
        .current_dir(&root);
    tool::output(&mut pack).unwrap();
    Guest {
        kernel: kernel.image,
        initramfs,
    }
}
