//! A test that is alone in a network namespace: the host. `world` and guests are in others.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;

use ipnet::IpNet;
use microagent_tests::tool;
use microagent_vmm::virtio::net::{MAX_FRAME, Tap};
use microagent_workspace::network::tap::{InterfaceError, Link, bridge, nat};
use rustix::event::{PollFd, PollFlags, poll};

/// Set in the process that is alone.
const ALONE: &str = "MICROAGENT_TEST_NETWORK_ALONE";
/// Set in a process that makes an interface and keeps it: the name of a VM, or `bridge NAME`.
const KEEP: &str = "MICROAGENT_TEST_NETWORK_KEEP";

pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const WORLD_V6: &str = "2001:db8::2";

/// Runs the test `name` again, in namespaces of its own. Returns whether this is that run.
pub fn is_alone(name: &str) -> bool {
    if let Ok(what) = std::env::var(KEEP) {
        keep(&what);
    }
    if std::env::var_os(ALONE).is_some() {
        // For `ip netns`.
        run("mount -t tmpfs none /run");
        run("ip link set lo up");
        return true;
    }
    let mut again = Command::new("unshare");
    again.args(["--net", "--mount"]).args(again_words(name));
    again.env(ALONE, "1");
    let output = String::from_utf8(tool::output(&mut again).unwrap()).unwrap();
    // Not another test, nor none.
    assert!(output.contains("test result: ok. 1 passed"), "{output}");
    false
}

fn again_words(test: &str) -> [String; 4] {
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap().to_owned();
    [program, "--exact".into(), test.into(), "--nocapture".into()]
}

/// Prints what became of an interface, and keeps it until standard input is closed.
fn keep(what: &str) -> ! {
    let opened = match what.strip_prefix("bridge ") {
        Some(name) => bridge::open(name),
        None => nat::open(what),
    };
    match &opened {
        Ok(link) => {
            let guest = link.subnet().map(|subnet| subnet.guest().to_string());
            println!("\nKEEPS {}", guest.unwrap_or_default());
        }
        Err(error) => println!("\nKEEPS {}", shown(error)),
    }
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(0);
}

/// A process of `test` that keeps an interface, and what it said.
pub struct Keeper {
    pub child: Child,
    pub said: String,
    _stdin: Option<ChildStdin>,
}

/// Starts processes that make and keep interfaces, all at once. `through` are the words of a command
/// that starts them.
pub fn keepers(test: &str, through: &[&str], what: &[&str]) -> Vec<Keeper> {
    let words = again_words(test);
    let words: Vec<&str> = through
        .iter()
        .copied()
        .chain(words.iter().map(String::as_str))
        .collect();
    let start = |what: &&str| {
        Command::new(words[0])
            .args(&words[1..])
            .env(KEEP, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = what.iter().map(start).collect();
    let said = |mut child: Child| {
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let said = std::io::BufRead::lines(stdout)
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("KEEPS ").map(str::to_owned))
            .unwrap();
        Keeper {
            _stdin: child.stdin.take(),
            child,
            said,
        }
    };
    children.into_iter().map(said).collect()
}

/// An error and its remediation, as a user reads them.
pub fn shown(error: &InterfaceError) -> String {
    let text = microagent_proto::error_chain(error);
    let remediation = error.remediation().unwrap_or_default();
    format!("{:?}: {text} | {remediation}", error.kind())
}

pub fn run(command: &str) -> String {
    let output = tool::run("sh", ["-c", command]).unwrap();
    String::from_utf8(output).unwrap()
}

pub fn set(setting: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
}

/// Does something in a network namespace. Sockets stay there.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A namespace named `name`, without duplicate address detection.
pub fn namespace(name: &str) {
    run(&format!(
        "ip netns add {name} && ip -n {name} link set lo up"
    ));
    within(name, without_detection);
}

pub fn without_detection() {
    set("ipv6/conf/default/accept_dad", "0");
    set("ipv6/conf/all/accept_dad", "0");
}

/// The network that the host forwards to. Nobody there knows a way back to VMs.
pub fn world(mtu: u32) {
    without_detection();
    namespace("world");
    run(&format!(
        "ip link add out mtu {mtu} type veth peer name out mtu {mtu} netns world
        ip addr add {HOST}/24 dev out && ip -6 addr add 2001:db8::1/64 dev out nodad
        ip link set out up && ip route add default via {WORLD}
        ip -n world addr add {WORLD}/24 dev out && ip -n world -6 addr add {WORLD_V6}/64 dev out nodad
        ip -n world link set out up"
    ));
}

pub fn forward(ipv4: bool, ipv6: bool) {
    let word = |on| if on { "1" } else { "0" };
    set("ipv4/ip_forward", word(ipv4));
    set("ipv6/conf/all/forwarding", word(ipv6));
}

/// Makes a namespace in the place of a guest: it has an interface `eth0` whose frames are those of
/// the TAP interface `tap`, with addresses and default gateways.
pub fn guest(name: &str, tap: impl AsFd, addresses: &[IpNet], gateways: &[IpNet]) {
    namespace(name);
    let tap = tap.as_fd().try_clone_to_owned().unwrap();
    let (other, interface) = Tap::create("guest%d").unwrap();
    run(&format!(
        "ip link set {interface} netns {name}
        ip -n {name} link set {interface} name eth0
        ip -n {name} link set eth0 up"
    ));
    for address in addresses {
        // `nodad`: without it, a worker of the kernel enables the address later, even if it has
        // nothing to detect.
        let nodad = if address.addr().is_ipv6() {
            "nodad"
        } else {
            ""
        };
        run(&format!("ip -n {name} addr add {address} dev eth0 {nodad}"));
    }
    for gateway in gateways {
        let gateway = gateway.addr();
        run(&format!("ip -n {name} route add default via {gateway}"));
    }
    thread::spawn(move || pass_on(&tap, &other));
}

/// A guest with the addresses of its link.
pub fn guest_of(name: &str, link: &Link) {
    let subnet = link.subnet().unwrap();
    let pair = |v4, v6: Option<_>| -> Vec<IpNet> {
        [Some(IpNet::V4(v4)), v6.map(IpNet::V6)]
            .into_iter()
            .flatten()
            .collect()
    };
    let addresses = pair(subnet.guest(), subnet.guest_v6());
    let gateways = pair(subnet.host(), subnet.host_v6());
    guest(name, link.tap(), &addresses, &gateways);
    run(&format!("ip -n {name} link set eth0 mtu {}", link.mtu()));
}

/// Passes frames between two TAP interfaces, until one is gone.
fn pass_on(one: &OwnedFd, other: &OwnedFd) {
    let mut frame = vec![0; MAX_FRAME + 64];
    loop {
        let mut both = [one, other].map(|tap| PollFd::new(tap, PollFlags::IN));
        poll(&mut both, None).unwrap();
        for (from, to) in [(one, other), (other, one)] {
            match rustix::io::read(from, &mut frame[..]) {
                Ok(len) => {
                    // An interface that is down takes nothing.
                    let _ = rustix::io::write(to, &frame[..len]);
                }
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    }
}

/// A datagram socket in a namespace.
pub fn socket(namespace: &str, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    within(namespace, || UdpSocket::bind(address)).unwrap()
}

/// The next datagram of a socket, and who sent it.
pub fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8(buffer[..len].to_vec()).unwrap(), from)
}
