//! The guest: the kernel of `kernel build` and a busybox that reads and writes its disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::microagent::Host;
use microagent_tests::tool;
use tempfile::TempDir;

use crate::Error;

/// What is measured: a name, and the arguments of busybox's `dd`. Direct: the guest's page cache
/// has no part in it. Small requests come one by one, so they measure how long one takes.
pub const WORK: [(&str, &str); 4] = [
    ("read, 1 MiB", "if=/dev/vda of=/dev/null bs=1M iflag=direct"),
    (
        "write, 1 MiB",
        "if=/dev/zero of=/dev/vda bs=1M oflag=direct",
    ),
    ("read, 4 KiB", "if=/dev/vda of=/dev/null bs=4k iflag=direct"),
    (
        "write, 4 KiB",
        "if=/dev/zero of=/dev/vda bs=4k oflag=direct",
    ),
];

/// Where kernel and initramfs are in the lab.
pub(super) const IN_LAB: [&str; 2] = ["/guest/vmlinux", "/guest/initramfs.cpio"];

/// What marks the guest's own lines on its console.
const MARK: &str = "DISK ";

/// What boots.
#[derive(Debug)]
pub struct Guest {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// Its whole userland.
    pub initramfs: PathBuf,
    /// Where it was put together, and where the kernel is.
    _kept: Option<(TempDir, Host)>,
}

impl Guest {
    /// The guest as the lab has it.
    pub fn in_lab() -> Guest {
        let [kernel, initramfs] = IN_LAB.map(PathBuf::from);
        Guest {
            kernel,
            initramfs,
            _kept: None,
        }
    }

    /// Puts a guest together that moves `mib` MiB in each piece of work.
    ///
    /// # Errors
    /// When a tool or the kernel's package is missing.
    pub fn new(mib: u32) -> Result<Guest, Error> {
        let dir = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let root = dir.path().join("initramfs");
        for sub in ["bin", "dev", "proc"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(Error::file(&path))?;
        }
        let copy = |from: &Path, to: &Path| fs::copy(from, to).map_err(Error::file(from));
        let (host, kernel) = built_kernel()?;
        copy(&tool::find("busybox")?, &root.join("bin/busybox"))?;
        let init = root.join("init");
        fs::write(&init, init_script(mib)).map_err(Error::file(&init))?;
        tool::run("chmod", ["+x".as_ref(), init.as_os_str()])?;
        let initramfs = dir.path().join("initramfs.cpio");
        let mut pack = Command::new("sh");
        pack.args(["-c", "find . | cpio -o -H newc --quiet > \"$0\""])
            .arg(&initramfs)
            .current_dir(&root);
        tool::output(&mut pack)?;
        Ok(Guest {
            kernel,
            initramfs,
            _kept: Some((dir, host)),
        })
    }
}

/// The file of the kernel that `kernel build` makes, and what keeps it.
fn built_kernel() -> Result<(Host, PathBuf), Error> {
    #[derive(serde::Deserialize)]
    struct Document {
        kernel: Kernel,
    }
    #[derive(serde::Deserialize)]
    struct Kernel {
        digest: String,
    }
    let host = microagent_tests::built_kernel::host()?;
    let built = host.microagent(["--json", "kernel", "build"]).finish();
    let document: Document =
        serde_json::from_slice(&built.stdout).map_err(|source| Error::Answer {
            command: "microagent kernel build".into(),
            source,
        })?;
    let hex = document.kernel.digest.replace("sha256:", "");
    let blob = host.state().join("cas/blobs/sha256").join(hex);
    Ok((host, blob))
}

/// PID 1. The disk is written once before anything counts, so that its file has all its pages.
fn init_script(mib: u32) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs none /dev\n$b mount -t proc none /proc\n",
    );
    // Nothing else in Linux and busybox tells time finer than in hundredths.
    script += "now() { $b sed -n 's/^now at \\([0-9]*\\) nsecs/\\1/p;3q' /proc/timer_list; }\n";
    script +=
        &format!("$b dd if=/dev/zero of=/dev/vda bs=1M count={mib} oflag=direct 2>/dev/null\n");
    for (number, (_, arguments)) in WORK.iter().enumerate() {
        let blocks = match arguments.contains("bs=1M") {
            true => mib,
            false => mib * 256,
        };
        script += &format!(
            "start=$(now); $b dd {arguments} count={blocks} 2>/dev/null && \
             echo \"{MARK}{number} {} $start $(now)\"\n",
            u64::from(mib) << 20
        );
    }
    // Any monitor understands a reset, and QEMU's machine has no ACPI to power off with.
    script += "$b reboot -f\n";
    script
}

/// MB/s of each piece of [`WORK`], as the guest's console tells them; `None` when one is missing.
pub fn rates(console: &str) -> Option<Vec<f64>> {
    let line = |number: usize| {
        let mark = format!("{MARK}{number} ");
        console.lines().find_map(|line| line.split_once(&mark))
    };
    (0..WORK.len())
        .map(|number| rate(line(number)?.1))
        .collect()
}

/// Of `BYTES START END`, in nanoseconds.
fn rate(line: &str) -> Option<f64> {
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (bytes, start, end) = (next()?, next()?, next()?);
    let nanoseconds = end.checked_sub(start).filter(|passed| *passed > 0)?;
    Some(bytes as f64 * 1e3 / nanoseconds as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_says_becomes_rates() {
        let console: String = (0..WORK.len())
            .map(|number| format!("[    1.0] x {MARK}{number} 64000000 1000 250001000\r\n"))
            .collect();
        assert_eq!(rates(&console), Some(vec![256.0; WORK.len()]));
        let cut = console.rsplit_once("[ ").map_or("", |(most, _)| most);
        assert_eq!(rates(cut), None);
        for line in ["", "64 1 ", "64 2 1", "64 2 2", "64 1 x"] {
            assert_eq!(rate(line), None, "{line}");
        }
    }
}
