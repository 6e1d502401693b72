//! QEMU's command line: a `microvm` machine with explicitly listed devices only.
//!
//! | option | reason |
//! |---|---|
//! | `-nodefaults -no-user-config` | no devices or settings other than those in this file |
//! | `acpi=on` | Debian's kernels find virtio-mmio devices only through ACPI |
//! | `ioapic2=off` | interrupts of the second I/O APIC are not delivered under TCG; the first one has eight free pins |
//! | `x-option-roms=off` | the VM does not boot from a disk |
//! | `memory-backend-memfd,share=on` | the vhost-user devices map guest memory |
//! | `force-legacy=false` | virtio-mmio version 2 |
//! | `debug-threads=on` | names QEMU's threads, for reports on a VM that hangs |
//! | `-no-reboot` | a reset ends the VM |
//! | `edd=off` (kernel) | the setup code does not query the firmware for disks |
//!
//! Kernel, initramfs and command line are separate options, so commas in paths are not special.

use std::ffi::OsString;

use microagent_proto::control::VmConfig;

use super::tsc;
use crate::boot::CommandLine;
use crate::vhost_user;
use crate::virtio::net::StaticConfig;

/// The QEMU front end of a device. For vhost-user devices: the descriptor of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    Block(i32),
    Vsock(i32),
    Rng,
    Net {
        /// The descriptor of the directory that holds the socket [`socket_name`].
        dir: i32,
        /// The values of the configuration space, which QEMU serves.
        config: StaticConfig,
    },
}

/// The name of the socket of the device with this index.
pub fn socket_name(index: usize) -> String {
    format!("device{index}")
}

/// The number of virtio-mmio buses of the machine.
pub const MAX_DEVICES: usize = 8;

/// Descriptors that QEMU inherits, in addition to those of the front ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    pub monitor: i32,
    pub console: i32,
}

/// The arguments for `config`, without those of the sandbox.
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
        .with_extra(tsc::kernel_parameter().as_deref())
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
        // QEMU lists its buses to the guest from last to first, and the guest names disks in the
        // order in which it finds them.
        let bus = format!("bus=virtio-mmio-bus.{}", front_ends.len() - 1 - index);
        let device = match front_end {
            FrontEnd::Block(_) => {
                format!("vhost-user-blk,chardev={socket},num-queues=1,queue-size=256,{bus}")
            }
            FrontEnd::Vsock(_) => format!("vhost-user-vsock-device,chardev={socket},{bus}"),
            FrontEnd::Rng => format!("virtio-rng-device,{bus}"),
            FrontEnd::Net { config, .. } => {
                let StaticConfig { mac, mtu } = config;
                // With zero, QEMU does not offer VIRTIO_NET_F_MTU.
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
