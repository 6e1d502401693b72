//! The lab: a machine with a working KVM, emulated by QEMU with AMD-V.
//!
//! Development machines often have no KVM, or one that cannot run an ordinary guest kernel. QEMU
//! without any acceleration emulates a processor with SVM and nested paging well enough that
//! Debian's own `kvm-amd` module runs on it. So the lab boots Debian's cloud kernel under QEMU,
//! loads the module, and runs a list of [`Step`]s, each a shell command, in a minimal userland
//! (busybox and the programs under test). Inside, `/dev/kvm` is an ordinary hardware KVM, five to
//! ten times slower than native.
//!
//! A boot takes seconds, so tests share a lab: each adds a step and checks its report.
//!
//! ```no_run
//! # fn main() -> Result<(), microagent_tests::Error> {
//! use microagent_tests::lab::Lab;
//! let mut lab = Lab::new()?;
//! lab.program("/usr/bin/stat", "/bin/real-stat")?;
//! lab.step("kvm is there", "real-stat -c %F /dev/kvm", 10);
//! let report = lab.boot()?;
//! assert_eq!(report.step("kvm is there").stdout, b"character special file\n");
//! # Ok(()) }
//! ```

mod archive;
mod kernel;
mod machine;
mod processor;
mod protocol;
mod stalled;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use archive::Archive;
pub use kernel::{Kernel, kernel};

use crate::{Error, binaries, tool};

/// How much of each output of a step is kept, in bytes. The rest is dropped.
pub const OUTPUT_LIMIT: usize = 64 << 10;

/// The hardware of a lab and its time limits.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Memory in MiB. It also holds all files of the lab.
    pub memory_mib: u32,
    /// Number of processors.
    pub cpus: u32,
    /// One instruction is one nanosecond: times inside are the same on every run and do not depend
    /// on other work of this host. Slower; one processor only.
    pub deterministic_clock: bool,
    /// A raw image to attach, read-only, as `/dev/vda`.
    pub disk: Option<PathBuf>,
    /// A disk that is written, `/dev/vda`, with a log of its writes.
    pub recorded: Option<RecordedDisk>,
    /// Time limit of the whole, boot included. With the deterministic clock a lab that exceeds it
    /// is booted again, twice: nothing else detects a stall there.
    pub deadline: Duration,
    /// A lab in which no process runs for this long has stalled and is booted again, twice. Ignored
    /// with the deterministic clock.
    pub silence: Duration,
}

/// A disk whose writes are recorded.
#[derive(Debug, Clone)]
pub struct RecordedDisk {
    /// What is on it at first. The lab writes to a copy.
    pub image: PathBuf,
    /// The log of what is written, which [`WriteLog`](crate::write_log::WriteLog) reads.
    pub log: PathBuf,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            memory_mib: 4096,
            cpus: 1,
            deterministic_clock: false,
            disk: None,
            recorded: None,
            deadline: Duration::from_secs(300),
            silence: Duration::from_secs(60),
        }
    }
}

/// One command to run in the lab.
#[derive(Debug, Clone)]
pub struct Step {
    /// The name of its report.
    pub name: String,
    /// The script for `/bin/sh` (busybox), run in an empty directory and without input.
    pub script: String,
    /// Time limit in seconds, after which it is killed.
    pub seconds: u32,
}

/// The result of a step.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// [`Step::name`].
    pub name: String,
    /// Its exit status; 128+n for signal n; 137 if it exceeded its time limit.
    pub code: i32,
    /// The first [`OUTPUT_LIMIT`] bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The first [`OUTPUT_LIMIT`] bytes of its standard error.
    pub stderr: Vec<u8>,
    /// Its time on the lab's clock.
    pub elapsed: Duration,
}

impl StepReport {
    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// The results of all steps.
#[derive(Debug)]
pub struct Report {
    /// In the order in which they were added.
    pub steps: Vec<StepReport>,
    /// The end of the lab's console.
    pub console: String,
}

impl Report {
    /// The report of one step.
    ///
    /// # Panics
    ///
    /// If the lab has no step of this name.
    pub fn step(&self, name: &str) -> &StepReport {
        self.steps
            .iter()
            .find(|step| step.name == name)
            .unwrap_or_else(|| panic!("the lab has no step named {name:?}"))
    }
}

/// A lab that has not been booted yet.
#[derive(Debug)]
pub struct Lab {
    machine: Machine,
    kernel: Kernel,
    archive: Archive<File>,
    present: BTreeSet<PathBuf>,
    steps: Vec<Step>,
}

impl Lab {
    /// A lab with the default machine.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] if QEMU or busybox is not installed.
    pub fn new() -> Result<Lab, Error> {
        Lab::with_machine(Machine::default())
    }

    /// A lab with this machine.
    pub fn with_machine(machine: Machine) -> Result<Lab, Error> {
        tool::find(machine::QEMU)?;
        let busybox = tool::find("busybox")?;
        let kernel = kernel()?;
        let file = tempfile::NamedTempFile::new()
            .map_err(Error::file(std::env::temp_dir()))?
            .into_file();
        let mut lab = Lab {
            machine,
            kernel,
            archive: Archive::new(file),
            present: BTreeSet::new(),
            steps: Vec::new(),
        };
        for directory in [
            "bin", "sbin", "usr", "usr/bin", "usr/sbin", "usr/lib", "lib", "lib64", "dev", "proc",
            "sys", "tmp", "run", "root", "etc", "lab",
        ] {
            lab.directory_entry(Path::new(directory))?;
        }
        lab.archive
            .device(Path::new("dev/console"), 5, 1)
            .map_err(Error::file("/dev/console"))?;
        if tool::run("ldd", [&busybox]).is_ok() {
            return Err(Error::Missing {
                program: "a static busybox (busybox-static)".to_owned(),
            });
        }
        lab.file(&busybox, "/bin/busybox")?;
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
        lab.text(users, "/etc/passwd", 0o644)?;
        lab.text("root:x:0:\nnogroup:x:65534:\n", "/etc/group", 0o644)?;
        lab.text("127.0.0.1 localhost\n", "/etc/hosts", 0o644)?;
        Ok(lab)
    }

    /// Loads further modules of the kernel, and those that they depend on.
    pub fn modules(&mut self, names: &[&str]) -> Result<(), Error> {
        names
            .iter()
            .try_for_each(|name| self.kernel.add_module(name))
    }

    /// Puts a file of this host at `guest`, with its mode.
    pub fn file(&mut self, host: &Path, guest: &str) -> Result<(), Error> {
        let mut file = File::open(host).map_err(Error::file(host))?;
        let metadata = file.metadata().map_err(Error::file(host))?;
        let guest = self.make_parents(guest)?;
        self.archive
            .file(
                &guest,
                metadata.permissions().mode() & 0o7777,
                metadata.len(),
                &mut file,
            )
            .map_err(Error::file(host))
    }

    /// Creates a file with these contents at `guest`.
    pub fn text(&mut self, contents: &str, guest: &str, mode: u32) -> Result<(), Error> {
        let guest = self.make_parents(guest)?;
        let size = contents.len() as u64;
        self.archive
            .file(&guest, mode, size, &mut contents.as_bytes())
            .map_err(Error::file(&guest))
    }

    /// Copies a program of this host to `guest`, and the shared libraries that it needs to their paths
    /// on this host.
    pub fn program(&mut self, host: impl AsRef<Path>, guest: &str) -> Result<(), Error> {
        let host = host.as_ref();
        // `ldd` fails on a static program, which needs none.
        let listing = tool::text("ldd", [host]).unwrap_or_default();
        for library in listing.lines().filter_map(library_path) {
            let guest = library.to_string_lossy().into_owned();
            if !self.present.contains(&relative(&guest)) {
                let real = fs::canonicalize(&library).map_err(Error::file(&library))?;
                self.file(&real, &guest)?;
            }
        }
        self.file(host, guest)
    }

    /// Copies the programs under test into a directory of `$PATH`.
    pub fn microagent(&mut self) -> Result<(), Error> {
        self.program(binaries::microagent(), "/usr/bin/microagent")?;
        self.program(binaries::supervisor(), "/usr/bin/microagent-supervisor")?;
        self.program(binaries::agent(), "/usr/bin/microagent-guest")
    }

    /// Copies this host's QEMU and the firmware of its `microvm` machine.
    pub fn qemu(&mut self) -> Result<(), Error> {
        self.program(
            tool::find(machine::QEMU)?,
            &format!("/usr/bin/{}", machine::QEMU),
        )?;
        for firmware in ["qboot.rom", "bios-microvm.bin"] {
            let path = PathBuf::from("/usr/share/qemu").join(firmware);
            let real = fs::canonicalize(&path).map_err(Error::file(&path))?;
            self.file(&real, &path.to_string_lossy())?;
        }
        Ok(())
    }

    /// Copies a directory to `guest`: directories, files and symbolic links.
    pub fn directory(&mut self, host: &Path, guest: &str) -> Result<(), Error> {
        self.make_directories(&relative(guest))?;
        let entries = fs::read_dir(host).map_err(Error::file(host))?;
        for entry in entries {
            let entry = entry.map_err(Error::file(host))?;
            let path = entry.path();
            let below = format!("{guest}/{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(Error::file(&path))?;
            if kind.is_dir() {
                self.directory(&path, &below)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(Error::file(&path))?;
                let guest = self.make_parents(&below)?;
                self.archive
                    .symlink(&guest, &target)
                    .map_err(Error::file(&path))?;
            } else if kind.is_file() {
                self.file(&path, &below)?;
            }
        }
        Ok(())
    }

    /// Adds a step. See [`Step`].
    pub fn step(&mut self, name: &str, script: &str, seconds: u32) {
        self.steps.push(Step {
            name: name.to_owned(),
            script: script.to_owned(),
            seconds,
        });
    }

    /// Boots, runs the steps in order, and powers off. A step that fails does not stop the others.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] at the machine's deadline, [`Error::Lab`] if the machine ends before its
    /// last step.
    pub fn boot(mut self) -> Result<Report, Error> {
        for (index, step) in self.steps.clone().iter().enumerate() {
            let directory = format!("/lab/steps/{index:04}");
            self.text(&step.script, &format!("{directory}/script"), 0o644)?;
            self.text(
                &step.seconds.to_string(),
                &format!("{directory}/seconds"),
                0o644,
            )?;
        }
        let mut order = String::new();
        for module in self.kernel.modules.clone() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            self.file(&module, &format!("/lab/modules/{name}"))?;
            order += &format!("{name}\n");
        }
        self.text(&order, "/lab/modules/order", 0o644)?;
        self.text(machine::INIT, "/init", 0o755)?;
        if !self.machine.deterministic_clock {
            self.text("", "/lab/beats", 0o644)?;
        }
        let initramfs = self
            .archive
            .finish()
            .map_err(Error::file("the lab's initramfs"))?;
        machine::run(&self.machine, &self.kernel, &initramfs, &self.steps)
    }

    /// Makes the directories above `guest`, and returns it as the archive names it.
    fn make_parents(&mut self, guest: &str) -> Result<PathBuf, Error> {
        let path = relative(guest);
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        self.present.insert(path.clone());
        Ok(path)
    }

    /// Makes a directory of the guest and those above it, where they are missing.
    fn make_directories(&mut self, path: &Path) -> Result<(), Error> {
        let mut above = PathBuf::new();
        for component in path.components() {
            above.push(component);
            if !self.present.contains(&above) {
                self.directory_entry(&above.clone())?;
            }
        }
        Ok(())
    }

    fn directory_entry(&mut self, path: &Path) -> Result<(), Error> {
        self.present.insert(path.to_owned());
        self.archive.directory(path).map_err(Error::file(path))
    }
}

/// A path in the guest as a cpio archive names it: without the slash in front.
fn relative(guest: &str) -> PathBuf {
    Path::new(guest)
        .components()
        .filter(|component| matches!(component, std::path::Component::Normal(_)))
        .collect()
}

/// The file in a line of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld.so (0x…)`.
fn library_path(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let named = line.split_once("=> ").map_or(line, |(_, path)| path);
    let path = named.split(" (0x").next()?.trim();
    path.starts_with('/').then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        assert_eq!(
            library_path("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6".into())
        );
        assert_eq!(
            library_path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        assert_eq!(library_path("\tlinux-vdso.so.1 (0x00007ffd)"), None);
    }

    #[test]
    fn guest_paths_lose_their_slash_and_dots() {
        assert_eq!(relative("/a/./b"), PathBuf::from("a/b"));
    }
}
