//! The guest: the kernel of `kernel build` and a busybox that reads and writes its disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::microagent::Host;
use microagent_tests::tool;
use tempfile::TempDir;

use crate::Error;

/// The measurements: a name, and the arguments of busybox's `dd`. Direct I/O bypasses the guest's
/// page cache. `dd` issues one request at a time, so the small ones measure latency.
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

/// The paths of kernel and initramfs in the lab.
pub(super) const IN_LAB: [&str; 2] = ["/guest/vmlinux", "/guest/initramfs.cpio"];

/// The prefix of result lines on the console.
const MARK: &str = "DISK ";

/// The guest to boot.
#[derive(Debug)]
pub struct Guest {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// The initramfs with the whole userspace.
    pub initramfs: PathBuf,
    /// Owns the directories of both files.
    _kept: Option<(TempDir, Host)>,
}

impl Guest {
    /// The guest's files in the lab.
    pub fn in_lab() -> Guest {
        let [kernel, initramfs] = IN_LAB.map(PathBuf::from);
        Guest {
            kernel,
            initramfs,
            _kept: None,
        }
    }

    /// Builds a guest that transfers `mib` MiB in each measurement.
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

/// The kernel that `kernel build` produces, and the host whose store contains it.
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
        serde_json::from_slice(&built.stdout).map_err(|source| Error::Parse {
            what: "the output of microagent kernel build".into(),
            source,
        })?;
    let hex = document.kernel.digest.replace("sha256:", "");
    let blob = host.state().join("cas/blobs/sha256").join(hex);
    Ok((host, blob))
}

/// PID 1. Writes the disk once before measuring, so that the file is fully allocated.
fn init_script(mib: u32) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs none /dev\n$b mount -t proc none /proc\n",
    );
    // The only clock available to busybox with a resolution better than 10 ms.
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
    // All monitors support reset; QEMU's machine has no ACPI for power-off.
    script += "$b reboot -f\n";
    script
}

/// Parses the MB/s of each measurement in [`WORK`] from the console; `None` when one is missing.
pub fn rates(console: &str) -> Option<Vec<f64>> {
    let line = |number: usize| {
        let mark = format!("{MARK}{number} ");
        console.lines().find_map(|line| line.split_once(&mark))
    };
    (0..WORK.len())
        .map(|number| rate(line(number)?.1))
        .collect()
}

/// The MB/s of a line `BYTES START END`, times in nanoseconds.
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
    fn parses_rates_from_the_console() {
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
