//! Network interfaces of a stock kernel: one on a tap with the host's kernel as the peer, and two
//! guests connected by one stream. Tests pings, IPv6, and files in both directions. On engine `kvm`
//! in the lab, and on engine `qemu` (device over vhost-user) in a network namespace.
//!
//! As in `kvm_linux.rs`, a test runs its own program again, where [`INSIDE`] is set.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use crate::guest::{self, INITRAMFS, KERNEL, PROGRAM, Vm};
use microagent_proto::control::{Engine, VmConfig};
use microagent_tests::lab::Machine;
use microagent_tests::{or_skip, root_or_skip, tool};
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::net::{Backend, Counters, Mac, Net, Stream, Tap};

/// Set in the lab or the namespace: the kind of backend, the engine, kernel, initramfs, and a
/// directory for the VM.
const INSIDE: &str = "MICROAGENT_TEST_NET";

/// The amount of data in each direction, in bytes.
const TAP_BYTES: usize = 8 << 20;
const STREAM_MIB: usize = 1;

const MTU: u16 = 1400;

/// `net=tap`: the peer is the host. `net=serve` and `net=ask`: the two guests.
const SCRIPT: &str = r#"
mount -t sysfs none /sys
read -r line < /proc/cmdline
role=${line##*net=}
ip link set lo up
address() {
    ip addr add "$1/24" dev eth0
    for of in all eth0; do echo 0 >/proc/sys/net/ipv6/conf/$of/accept_dad; done
    ip link set eth0 up
    ip -6 addr add "$2/64" dev eth0
}
pings() {
    echo "GUEST $(ping -c 3 -W 10 "$1" | grep -c 'bytes from') $(ping -6 -c 2 -W 10 "$2" | grep -c 'bytes from')"
}
case $role in
tap)
    address 10.77.0.2 fd77::2
    pings 10.77.0.1 fd77::1
    vsock tcp 10.77.0.1:9000 </dev/null >/tmp/got
    vsock tcp [fd77::1]:9001 </tmp/got
    echo "GUEST mtu $(cat /sys/class/net/eth0/mtu) $(cat /sys/class/net/eth0/address)"
    ;;
serve)
    address 10.77.0.1 fd77::1
    nc -l -p 9000 -e cat
    # Wait until the sent data is received: a power-off would lose it. 9000 is 0x2328.
    while grep -q ':2328 ' /proc/net/tcp* && ping -c 1 -W 10 10.77.0.2 >/dev/null; do :; done
    ;;
ask)
    address 10.77.0.2 fd77::2
    # The other guest boots at the same time.
    until ping -c 1 -W 1 10.77.0.1 >/dev/null; do :; done
    pings 10.77.0.1 fd77::1
    dd if=/dev/urandom of=/tmp/sent bs=1M count=1 2>/dev/null
    until vsock tcp 10.77.0.1:9000 </tmp/sent >/tmp/got; do :; done
    cmp /tmp/sent /tmp/got && echo "GUEST same $(wc -c </tmp/got)"
    ;;
esac
"#;

/// The byte at an offset of the test file, in a pattern with a long period.
fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(151) as u8
}

fn start(vm: &VmConfig, role: &str, last: u8, backend: Box<dyn Backend>) -> (Vm, Arc<Counters>) {
    let mut config = vm.clone();
    config.extra_cmdline = Some(format!("net={role}"));
    let mac = Mac::new([2, 0, 0, 0, 0, last]).unwrap();
    let net = Net::new(mac, backend).with_mtu(MTU).unwrap();
    let counters = net.counters();
    let device = Device {
        kind: DeviceKind::Net,
        device: Box::new(net),
    };
    (Vm::start(&config, vec![device]), counters)
}

fn on_a_tap(vm: &VmConfig) {
    // The addresses are unique; duplicate address detection takes seconds.
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/accept_dad"), "0").unwrap();
    }
    let tap = Tap::open("tap0").unwrap();
    for words in [
        "link set tap0 mtu 1400",
        "link set lo up",
        "link set tap0 up",
        "addr add 10.77.0.1/24 dev tap0",
        "-6 addr add fd77::1/64 dev tap0",
    ] {
        tool::run("ip", words.split(' ').map(std::ffi::OsStr::new)).unwrap();
    }
    let source = TcpListener::bind("10.77.0.1:9000").unwrap();
    // The address itself can be bound only after a worker of the kernel has checked it.
    let sink = TcpListener::bind("[::]:9001").unwrap();
    let (vm, counters) = start(vm, "tap", 2, Box::new(tap));
    let peer = thread::spawn(move || {
        let bytes: Vec<u8> = (0..TAP_BYTES).map(byte).collect();
        let (mut stream, _) = source.accept().unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut stream, _) = sink.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got == bytes
    });
    vm.finish(80, &["GUEST "]);
    println!("SAME {}", peer.join().unwrap());
    println!("SENT {}", counters.sent());
    println!("RECEIVED {}", counters.received());
    println!("DROPPED {}", counters.send_dropped());
}

fn on_a_stream(vm: &VmConfig) {
    let (one, other) = UnixStream::pair().unwrap();
    let backend = |socket| Box::new(Stream::new(socket).unwrap());
    let (server, _) = start(vm, "serve", 1, backend(one));
    let (client, counters) = start(vm, "ask", 2, backend(other));
    client.finish(120, &["GUEST "]);
    server.finish(20, &["GUEST "]);
    println!("DROPPED {}\n{counters:?}", counters.send_dropped());
}

/// Runs the VMs if this is the inner process. Returns whether it was.
fn run_inside() -> bool {
    let Ok(words) = std::env::var(INSIDE) else {
        return false;
    };
    let [kind, engine, kernel, initramfs, dir] =
        <[&str; 5]>::try_from(words.split(' ').collect::<Vec<_>>()).unwrap();
    let mut vm = guest::config(1, 256);
    vm.engine = if engine == "kvm" {
        Engine::Kvm
    } else {
        Engine::Qemu
    };
    (vm.kernel, vm.initramfs, vm.run_dir) = (kernel.into(), Some(initramfs.into()), dir.into());
    match kind {
        "tap" => on_a_tap(&vm),
        _ => on_a_stream(&vm),
    }
    true
}

fn check_tap(text: &str) {
    let lines = |word: &str| guest::lines_after(text, word);
    assert_eq!(lines("END "), ["Ok(PowerOff)"], "{text}");
    assert_eq!(
        lines("GUEST "),
        ["3 2", "mtu 1400 02:00:00:00:00:02"],
        "{text}"
    );
    assert_eq!(lines("SAME "), ["true"]);
    // With segmentation offload in both directions, there are fewer frames than segments.
    let number = |word: &str| lines(word)[0].parse::<usize>().unwrap();
    let segments = TAP_BYTES / usize::from(MTU);
    assert!(number("SENT ") < segments, "{text}");
    assert!(number("RECEIVED ") < segments, "{text}");
    assert_eq!(number("DROPPED "), 0);
}

fn check_stream(text: &str) {
    let lines = |word: &str| guest::lines_after(text, word);
    let same = format!("same {}", STREAM_MIB << 20);
    assert_eq!(lines("END "), ["Ok(PowerOff)", "Ok(PowerOff)"], "{text}");
    assert_eq!(lines("GUEST "), ["3 2", &same], "{text}");
    assert_eq!(lines("DROPPED "), ["0"], "{text}");
}

#[test]
fn a_stock_kernel_sends_and_receives_frames_on_engine_kvm() {
    if run_inside() {
        return;
    }
    for program in ["cpio", "rustc"] {
        or_skip!(tool::find(program));
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest(dir.path(), SCRIPT);
    let mut lab = or_skip!(guest.lab(Machine::default()));
    let test = "net::a_stock_kernel_sends_and_receives_frames_on_engine_kvm";
    for kind in ["tap", "stream"] {
        let words = format!("{kind} kvm {KERNEL} {INITRAMFS} /tmp");
        let script = format!("{INSIDE}='{words}' {PROGRAM} --exact {test} --nocapture");
        lab.step(kind, &script, 180);
    }
    let report = lab.boot().unwrap();
    check_tap(&guest::text_of(report.step("tap")));
    check_stream(&guest::text_of(report.step("stream")));
}

#[test]
fn a_stock_kernel_sends_and_receives_frames_on_engine_qemu() {
    if run_inside() {
        return;
    }
    root_or_skip!();
    for program in ["qemu-system-x86_64", "unshare", "ip", "cpio", "rustc"] {
        or_skip!(tool::find(program));
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest(dir.path(), SCRIPT);
    let test = "net::a_stock_kernel_sends_and_receives_frames_on_engine_qemu";
    let run = |kind: &str| {
        let (kernel, initramfs) = (guest.kernel.display(), guest.initramfs.display());
        let words = format!("{kind} qemu {kernel} {initramfs} {}", dir.path().display());
        let mut alone = Command::new("unshare");
        alone.arg("--net").arg(std::env::current_exe().unwrap());
        alone
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, words);
        let output = tool::output(&mut alone).unwrap();
        String::from_utf8(output).unwrap()
    };
    check_tap(&run("tap"));
    check_stream(&run("stream"));
}
