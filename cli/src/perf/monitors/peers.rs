//! Firecracker and QEMU, if installed, with the same guest as our monitor.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microagent_proto::agent::RESET_AT_ONCE;
use microagent_proto::control::Engine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::guest::Guest;
use crate::run::phases::millis;

/// Time limit of one boot.
const TIMEOUT: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

/// Our own kernel command line without the options specific to our devices, with a reset method
/// that every monitor supports (triple fault) and without a console.
const COMMAND_LINE: &str = "reboot=t panic=-1 rdinit=/init random.trust_cpu=on tsc=reliable \
                            8250.nr_uarts=0 pci=off cryptomgr.notests i8042.noaux i8042.nomux \
                            i8042.nopnp i8042.dumbkbd quiet";

/// Another monitor.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    kind: Kind,
    program: PathBuf,
    run_dir: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Firecracker,
    /// QEMU's `microvm` machine with this accelerator.
    Qemu(&'static str),
}

impl Peer {
    /// The peers in `$PATH`. Firecracker needs KVM; QEMU uses KVM or TCG like our engine.
    pub(super) fn installed(engine: Engine, run_dir: &Path) -> Vec<Peer> {
        let accelerator = match engine {
            Engine::Kvm => "kvm",
            Engine::Qemu => "tcg",
        };
        let peer = |name: &str, kind| {
            let program = in_path(name)?;
            Some(Peer {
                name: version(&program)?,
                kind,
                program,
                run_dir: run_dir.to_owned(),
            })
        };
        let firecracker = || peer("firecracker", Kind::Firecracker);
        [
            (engine == Engine::Kvm).then(firecracker).flatten(),
            peer("qemu-system-x86_64", Kind::Qemu(accelerator)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Milliseconds from the spawn of its process to its exit.
    ///
    /// # Errors
    /// Why it could not boot the guest.
    pub(super) fn boot(&self, guest: &Guest) -> Result<f64, String> {
        let mut command = match self.kind {
            Kind::Firecracker => self.firecracker(guest)?,
            Kind::Qemu(accelerator) => self.qemu(guest, accelerator),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        wait(&mut child)?;
        Ok(millis(begun.elapsed()))
    }

    fn firecracker(&self, guest: &Guest) -> Result<Command, String> {
        let config = serde_json::json!({
            "boot-source": {
                "kernel_image_path": guest.kernel,
                "initrd_path": guest.initramfs,
                "boot_args": format!("{COMMAND_LINE} -- {RESET_AT_ONCE}"),
            },
            "drives": [],
            "machine-config": {
                "vcpu_count": guest.cpus,
                "mem_size_mib": guest.memory_mib,
            },
        });
        let path = self.run_dir.join("firecracker.json");
        std::fs::write(&path, config.to_string()).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.program);
        command.arg("--no-api").arg("--config-file").arg(path);
        Ok(command)
    }

    fn qemu(&self, guest: &Guest, accelerator: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-no-user-config", "-nodefaults", "-display", "none"])
            .arg("-no-reboot")
            .arg("-M")
            .arg(format!(
                "microvm,acpi=off,x-option-roms=off,isa-serial=off,rtc=off,accel={accelerator}"
            ))
            .args(["-cpu", "max"])
            .arg("-m")
            .arg(format!("{}M", guest.memory_mib))
            .arg("-smp")
            .arg(guest.cpus.to_string())
            .arg("-kernel")
            .arg(&guest.kernel)
            .arg("-append")
            .arg(format!("{COMMAND_LINE} -- {RESET_AT_ONCE}"));
        if let Some(initramfs) = &guest.initramfs {
            command.arg("-initrd").arg(initramfs);
        }
        command
    }
}

/// Waits for the process; kills it after [`TIMEOUT`].
fn wait(child: &mut Child) -> Result<(), String> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    let ended = pidfd
        .and_then(|pidfd| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&TIMEOUT)))
        .is_ok_and(|count| count > 0);
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match (ended, status.success()) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("it failed: {status}")),
        (false, _) => Err(format!(
            "its guest did not end within {:?}",
            Duration::from_secs(TIMEOUT.tv_sec.unsigned_abs())
        )),
    }
}

/// The first line of the output of `--version`.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.trim().to_owned())
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}
