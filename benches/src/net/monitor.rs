//! One boot with one of the compared monitors. Both have the `passt` of the product, on a socket
//! that the product made.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

use microagent_proto::control::{Engine, NET_MTU};
use microagent_tests::error_chain;
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::net::{Mac, Net, Stream};
use microagent_workspace::network::{Passt, addresses};

use super::client::SERVER;
use super::figures::{Amounts, Figures};
use crate::Error;
use crate::guest::Guest;

/// The guest's hardware address.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The monitor that runs the guest and serves its network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Monitor {
    /// One of our engines, and our network device.
    Ours,
    /// QEMU's `microvm` and its `virtio-net-device` on `-netdev socket`.
    Qemu,
}

/// As on the command line.
impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Monitor::Ours => "ours",
            Monitor::Qemu => "qemu",
        })
    }
}

/// Builds the guest. `program` is the measuring program, which becomes its `/net`.
///
/// # Errors
/// When a tool or the kernel's package is missing.
pub fn guest(program: &Path, amounts: Amounts) -> Result<Guest, Error> {
    let [address, router] = addresses::USER_V4;
    let prefix = addresses::USER_V4_PREFIX;
    let mut script = format!(
        "$b ip link set lo up; $b ip link set eth0 mtu {NET_MTU} up\n\
         $b ip addr add {address}/{prefix} dev eth0; $b ip route add default via {router}\n"
    );
    let [server, port] = SERVER;
    // First a connection that is not counted: the neighbour is unknown.
    script += &format!("/net trips {server} {port} 1 >/dev/null\n");
    for (what, amount) in amounts.work() {
        script += &format!("/net {what} {server} {port} {amount}\n");
    }
    Guest::new(&script, &[program])
}

/// Boots the guest, with QEMU accelerated as `engine` is.
///
/// # Errors
/// When the VM does not start or does not complete its measurements.
pub fn measure(monitor: Monitor, engine: Engine, guest: &Guest) -> Result<Figures, Error> {
    let (_passt, socket) = Passt::start().map_err(|error| failed(&error))?;
    let console = match monitor {
        Monitor::Ours => guest.boot(engine, device(socket)?, "net")?,
        Monitor::Qemu => theirs(engine, guest, socket)?,
    };
    Figures::parse(&console)
}

/// The device, as the product makes it.
fn device(socket: OwnedFd) -> Result<Device, Error> {
    let mac = Mac::new(MAC).map_err(|error| failed(&error))?;
    let stream = Stream::for_passt(socket.into()).map_err(|error| failed(&error))?;
    let net = Net::new(mac, Box::new(stream)).with_mtu(NET_MTU);
    let net = net.map_err(|error| failed(&error))?.with_slot();
    let (net, _slot) = net.map_err(|error| failed(&error))?;
    Ok(Device {
        kind: DeviceKind::Net,
        device: Box::new(net),
    })
}

/// The guest's console output with QEMU alone. `-netdev stream` of QEMU 7.2 leaves the link without
/// carrier.
fn theirs(engine: Engine, guest: &Guest, socket: OwnedFd) -> Result<String, Error> {
    let console = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    let [a, b, c, d, e, f] = MAC;
    let mut command = guest.qemu(match engine {
        Engine::Kvm => "kvm",
        Engine::Qemu => "tcg",
    })?;
    command
        .arg("-serial")
        .arg(format!("file:{}", console.path().display()))
        .args(["-netdev", "socket,id=net,fd=0"])
        .arg("-device")
        .arg(format!(
            "virtio-net-device,netdev=net,host_mtu={NET_MTU},\
             mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
        ));
    // Not `tool::output`: its standard input is the socket.
    let output = command.stdin(socket).output();
    let output = output.map_err(Error::file(command.get_program()))?;
    if !output.status.success() {
        return Err(Error::Ended {
            command: "qemu-system-x86_64".into(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    let bytes = std::fs::read(console.path()).map_err(Error::file(console.path()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::Invalid {
        what: "net",
        why: error_chain(error),
    }
}
