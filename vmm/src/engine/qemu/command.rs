//! QEMU's command line: a `microvm` with nothing but what we ask for.
//!
//! | choice | why |
//! |---|---|
//! | `-nodefaults -no-user-config` | no device and no setting that is not in this file |
//! | `acpi=on` | Debian's kernels find virtio-mmio devices by ACPI alone |
//! | `ioapic2=off` | under TCG nothing hears what is wired to the second I/O APIC; the first has eight pins free |
//! | `x-option-roms=off` | nothing boots from a disk |
//! | `memory-backend-memfd,share=on` | our devices map the guest's memory |
//! | `force-legacy=false` | virtio-mmio version 2 |
//! | `debug-threads=on` | names QEMU's threads, for reports on a VM that hangs |
//! | `-no-reboot` | a reset ends the VM |
//! | `edd=off` (kernel) | its setup code need not ask the firmware for disks |
//!
//! Kernel, initramfs and command line are options of their own, so a comma in a path means nothing.

use std::ffi::OsString;

use microagent_proto::control::VmConfig;

use super::tsc;
use crate::boot::CommandLine;
use crate::vhost_user;
use crate::virtio::net::StaticConfig;

/// A device's front end. Where the device is ours: the descriptor of the connection to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    Block(i32),
    Vsock(i32),
    Rng,
    Net {
        /// The directory with its socket; [`socket_name`] says which.
        dir: i32,
        /// QEMU answers for the configuration space.
        config: StaticConfig,
    },
}

/// The name of a device's socket, where it has one.
pub fn socket_name(index: usize) -> String {
    format!("device{index}")
}

/// How many devices a machine has buses for.
pub const MAX_DEVICES: usize = 8;

/// Descriptors that QEMU inherits, besides those of the front ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    pub monitor: i32,
    pub console: i32,
}

/// The arguments for this VM.
pub fn arguments(config: &VmConfig, front_ends: &[FrontEnd], channels: Channels) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.flag("-nodefaults");
    arguments.flag("-no-user-config");
    arguments.flag("-no-reboot");
    arguments.option("-display", "none");
    let name = config.name.replace(',', ",,");
    arguments.option("-name", &format!("{name},debug-threads=on"));
    arguments.option(
        "-machine",
        "microvm,accel=tcg,acpi=on,ioapic2=off,x-option-roms=off,rtc=on,memory-backend=ram",
    );
    arguments.option("-cpu", "max");
    arguments.option("-smp", &config.cpus.to_string());
    arguments.option("-m", &format!("{}M", config.memory_mib));
    arguments.option(
        "-object",
        &format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            config.memory_mib
        ),
    );
    arguments.option("-global", "virtio-mmio.force-legacy=false");
    arguments.option("-kernel", &config.kernel);
    if let Some(initramfs) = &config.initramfs {
        arguments.option("-initrd", initramfs);
    }
    let line = CommandLine::new(config.console_to_stderr)
        .with_extra(Some("edd=off"))
        .with_extra(tsc::command_line_word().as_deref())
        .with_extra(config.extra_cmdline.as_deref());
    arguments.option("-append", &line.text());
    arguments.socket("monitor", channels.monitor);
    arguments.option("-mon", "chardev=monitor,mode=control");
    arguments.socket("console", channels.console);
    arguments.option("-serial", "chardev:console");
    for (index, front_end) in front_ends.iter().enumerate() {
        let socket = socket_name(index);
        match *front_end {
            FrontEnd::Block(fd) | FrontEnd::Vsock(fd) => arguments.socket(&socket, fd),
            FrontEnd::Rng => {}
            FrontEnd::Net { dir, .. } => {
                let path = vhost_user::socket_path(&socket, dir);
                arguments.option("-chardev", &format!("socket,id={socket},path={path}"));
                let netdev = format!("vhost-user,id=net{index},chardev={socket}");
                arguments.option("-netdev", &netdev);
            }
        }
        // QEMU describes its buses to the guest from the last to the first, and the guest names
        // disks in the order in which it finds them.
        let bus = format!("bus=virtio-mmio-bus.{}", front_ends.len() - 1 - index);
        let device = match front_end {
            FrontEnd::Block(_) => {
                format!("vhost-user-blk,chardev={socket},num-queues=1,queue-size=256,{bus}")
            }
            FrontEnd::Vsock(_) => format!("vhost-user-vsock-device,chardev={socket},{bus}"),
            FrontEnd::Rng => format!("virtio-rng-device,{bus}"),
            FrontEnd::Net { config, .. } => {
                let StaticConfig { mac, mtu } = config;
                // None is the same as zero (VIRTIO_NET_F_MTU is then not offered).
                let mtu = mtu.unwrap_or(0);
                format!("virtio-net-device,netdev=net{index},mac={mac},host_mtu={mtu},{bus}")
            }
        };
        arguments.option("-device", &device);
    }
    arguments.0
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: &(impl AsRef<std::ffi::OsStr> + ?Sized)) {
        self.0.push(name.into());
        self.0.push(value.as_ref().into());
    }

    fn socket(&mut self, id: &str, fd: i32) {
        self.option("-chardev", &format!("socket,id={id},fd={fd}"));
    }
}
