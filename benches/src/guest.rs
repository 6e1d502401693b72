//! A guest without an image, and one boot of it: the kernel of `kernel build`, and a busybox with an
//! init script that prints what it measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_proto::control::{Engine, StopReason, VmConfig};
use microagent_tests::microagent::Host;
use microagent_tests::{error_chain, tool};
use microagent_vmm::console::Console;
use microagent_vmm::engine::{Device, Launch, RunningVm, kvm, qemu};
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

use crate::Error;

/// The paths of kernel and initramfs in the lab.
pub(crate) const IN_LAB: [&str; 2] = ["/guest/vmlinux", "/guest/initramfs.cpio"];

/// Memory of the guests in MiB.
const MEMORY_MIB: u64 = 256;

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
        Guest::at(kernel, initramfs)
    }

    /// A guest that another process has built.
    pub fn at(kernel: PathBuf, initramfs: PathBuf) -> Guest {
        Guest {
            kernel,
            initramfs,
            _kept: None,
        }
    }

    /// Builds a guest with these `programs` in its root directory, whose PID 1 mounts `/dev` and
    /// `/proc` and runs the commands of `script`. Busybox is `$b`.
    ///
    /// # Errors
    /// When a tool or the kernel's package is missing.
    pub fn new(script: &str, programs: &[&Path]) -> Result<Guest, Error> {
        let dir = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let root = dir.path().join("initramfs");
        for sub in ["bin", "dev", "proc"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(Error::file(&path))?;
        }
        let copy = |from: &Path, to: &Path| fs::copy(from, to).map_err(Error::file(from));
        let (host, kernel) = built_kernel()?;
        copy(&tool::find("busybox")?, &root.join("bin/busybox"))?;
        for program in programs {
            copy(program, &root.join(program.file_name().unwrap_or_default()))?;
        }
        let init = root.join("init");
        // All monitors support reset; QEMU's machine has no ACPI for power-off.
        let script = format!(
            "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs none /dev\n\
             $b mount -t proc none /proc\n{script}$b reboot -f\n"
        );
        fs::write(&init, script).map_err(Error::file(&init))?;
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

    /// Boots it once with one of our engines; returns its console output. `what` is what is
    /// measured, for errors.
    ///
    /// # Errors
    /// When the VM does not start, or ends otherwise than by a reset.
    pub fn boot(
        &self,
        engine: Engine,
        device: Device,
        what: &'static str,
    ) -> Result<String, Error> {
        let failed = |error: &dyn std::error::Error| Error::Invalid {
            what,
            why: error_chain(error),
        };
        let config = VmConfig {
            name: format!("{what}-bench"),
            engine,
            cpus: 1,
            memory_mib: MEMORY_MIB,
            kernel: self.kernel.clone(),
            initramfs: Some(self.initramfs.clone()),
            extra_cmdline: None,
            disks: Vec::new(),
            run_dir: std::env::temp_dir(),
            console_to_stderr: false,
            listen: Vec::new(),
            net: None,
            saved: None,
        };
        let console = Console::new(false);
        let launch = Launch {
            config: &config,
            devices: vec![device],
            console: console.clone(),
        };
        let mut vm: Box<dyn RunningVm> = match engine {
            Engine::Kvm => {
                let prepared = kvm::Prepared::begin(|| {}).map_err(|error| failed(&error))?;
                kvm::start(prepared, launch, |_| {}).map_err(|error| failed(&error))?
            }
            Engine::Qemu => qemu::start(launch, |_| {}).map_err(|error| failed(&error))?,
        };
        let ended = vm.ended_fd();
        poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).map_err(|error| failed(&error))?;
        match vm.end() {
            Some(Ok(StopReason::Reset)) => Ok(console.tail(usize::MAX)),
            Some(Err(error)) => Err(failed(&error)),
            other => Err(Error::Invalid {
                what,
                why: format!("the VM ended with {other:?}: {}", console.tail(2000)),
            }),
        }
    }

    /// The command line of QEMU alone for this guest, without a console and further devices.
    ///
    /// # Errors
    /// When QEMU is not installed.
    pub fn qemu(&self, accelerator: &str) -> Result<Command, Error> {
        // Under TCG the guest's TSC is the host's; on a busy host the guest fails to calibrate it.
        let tsc = (accelerator == "tcg").then(qemu::tsc::kernel_parameter);
        let line = microagent_vmm::boot::CommandLine::new(false)
            .with_extra(Some("reboot=t"))
            .with_extra(tsc.flatten().as_deref());
        let mut command = Command::new(tool::find("qemu-system-x86_64")?);
        command
            .args(["-no-user-config", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-cpu", "max"])
            .arg("-M")
            .arg(format!(
                "microvm,accel={accelerator},acpi=off,x-option-roms=off,rtc=off"
            ))
            .args(["-m", &format!("{MEMORY_MIB}M"), "-smp", "1"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", &line.text()]);
        Ok(command)
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
