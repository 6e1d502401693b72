//! `microagent kernel build`. The kernel is compiled once for all tests and cached; its features are
//! checked in a running guest on both engines.

use std::fs;
use std::path::Path;
use std::time::Duration;

use microagent_tests::image::{Layout, Tar};
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{built_kernel, or_skip, tool};
use rustix::process::Signal;

/// Prints one line for each feature of the kernel that programs may rely on.
const EXPECTATIONS: &str = r#"
    say() { echo "$*"; }
    has() { busybox grep -q " __x64_sys_$1\$" /proc/kallsyms && say "call $1"; }
    mounted() { while read -r device point type rest; do [ "$point" = "$1" ] && echo "$type"; done </proc/mounts; }
    busybox uname -r | busybox cut -d- -f2
    say "root is $(mounted / | busybox tail -n 1)"
    busybox nproc
    mkdir -p /x/tmp /x/over /x/cg
    mount -t tmpfs none /x/tmp && mkdir /x/tmp/low /x/tmp/up /x/tmp/work && echo below >/x/tmp/low/file
    mount -t overlay none -o lowerdir=/x/tmp/low,upperdir=/x/tmp/up,workdir=/x/tmp/work /x/over
    echo above >/x/over/file; say "overlay $(cat /x/tmp/low/file) $(cat /x/over/file)"
    mount -t cgroup2 none /x/cg; say "cgroup2 $(cat /x/cg/cgroup.controllers)"
    mkdir /x/cg/a && say "cgroup made"
    for kind in m u i n p U; do busybox unshare -$kind true && say "unshare $kind"; done
    for name in user uts ipc pid net mnt cgroup time; do [ -e /proc/self/ns/$name ] && say "namespace $name"; done
    while read -r key value; do [ "$key" = Seccomp: ] && say "seccomp $value"; done </proc/self/status
    for call in io_uring_setup bpf landlock_create_ruleset userfaultfd memfd_create rseq membarrier mq_open shmget fanotify_init add_key perf_event_open; do has $call; done
    say "jit $(cat /proc/sys/net/core/bpf_jit_enable)"
    busybox ip link set lo up; while read -r address rest; do say "ipv6 $address"; done </proc/net/if_inet6
    for device in fuse net/tun loop-control hwrng kmsg ptmx; do [ -e /dev/$device ] && say "device $device"; done
    [ -e /proc/net/ip_tables_names ] && say "iptables"
    busybox ip link add v0 type veth && busybox ip link add b0 type bridge && say "veth bridge"
    busybox zcat /proc/config.gz | busybox grep -x CONFIG_PVH=y
    exit 0
"#;

const ANSWERS: &str = "microagent
root is ext4
2
overlay below above
cgroup2 cpuset cpu io memory hugetlb pids misc
cgroup made
unshare m
unshare u
unshare i
unshare n
unshare p
unshare U
namespace user
namespace uts
namespace ipc
namespace pid
namespace net
namespace mnt
namespace cgroup
namespace time
seccomp 0
call io_uring_setup
call bpf
call landlock_create_ruleset
call userfaultfd
call memfd_create
call rseq
call membarrier
call mq_open
call shmget
call fanotify_init
call add_key
call perf_event_open
jit 1
ipv6 00000000000000000000000000000001
device fuse
device net/tun
device loop-control
device hwrng
device kmsg
device ptmx
iptables
veth bridge
CONFIG_PVH=y
";

#[test]
fn the_kernel_has_the_expected_features_on_engine_qemu() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let finished = host
        .microagent(["--engine", "qemu", "run", "--cpus", "2", "--image"])
        .argument(layout.reference("latest"))
        .argument("--exec")
        .argument(EXPECTATIONS)
        .deadline(Duration::from_secs(300))
        .finish()
        .expect_code(0);
    assert_eq!(finished.text(), ANSWERS, "{}", finished.errors());
    host.assert_clean();
}

#[test]
fn the_kernel_has_the_expected_features_on_engine_kvm() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let mut lab = or_skip!(Lab::with_machine(Machine {
        deadline: Duration::from_secs(600),
        ..Machine::default()
    }));
    lab.microagent().unwrap();
    lab.directory(&host.state(), "/state").unwrap();
    lab.directory(layout.directory(), "/layout").unwrap();
    lab.text(EXPECTATIONS, "/expectations", 0o644).unwrap();
    let script = "export XDG_RUNTIME_DIR=/run MICROAGENT_STATE_DIR=/state
        microagent --quiet --engine kvm run --cpus 2 --image oci:/layout:latest --exec \"$(cat /expectations)\"";
    lab.step("run", script, 300);
    let report = or_skip!(lab.boot());
    let step = report.step("run");
    assert_eq!(
        (step.code, step.text().as_str()),
        (0, ANSWERS),
        "{}",
        step.errors()
    );
}

#[test]
fn a_second_build_is_a_hit_and_compiles_nothing() {
    let host = or_skip!(built_kernel::host());
    let source = or_skip!(built_kernel::source());
    let log = host.state().join("kernel-build.log");
    let before = fs::metadata(&log).ok().map(|log| log.modified().unwrap());
    let build = |extra: &[&str]| {
        let mut build = host.microagent(["--json", "kernel", "build", "--source"]);
        build.argument(&source);
        for word in extra {
            build.argument(*word);
        }
        build.finish().expect_code(0).json()
    };
    let first = build(&[]);
    assert_eq!(first["node"]["hit"], true, "{first}");
    assert!(
        first["node"]["millis"].as_f64().unwrap() < 2000.0,
        "{first}"
    );
    assert!(first["node"]["key"].as_str().unwrap().len() >= 64);
    assert_eq!(first["kernel"]["modules"], serde_json::Value::Null);
    let version = first["kernel"]["version"].as_str().unwrap();
    assert!(
        version.starts_with("6.1.") && version.ends_with("-microagent"),
        "{version}"
    );
    // A fragment that changes no option yields the same kernel.
    let same = host.path("same.config");
    fs::write(&same, "# nothing new\nCONFIG_PVH=y\n").unwrap();
    let second = build(&["--config", same.to_str().unwrap()]);
    assert_eq!(second["node"]["hit"], true, "{second}");
    assert_eq!(second["kernel"]["digest"], first["kernel"]["digest"]);
    let after = fs::metadata(&log).ok().map(|log| log.modified().unwrap());
    assert_eq!(before, after);
    // The built kernel is the default kernel.
    let doctor = host.microagent(["--json", "doctor"]).finish().json();
    assert_eq!(
        doctor["kernel"]["installed"]["digest"],
        first["kernel"]["digest"]
    );
    host.assert_clean();
}

/// Runs a build of `source`, which is expected to fail.
fn failing(host: &Host, source: &Path, flags: &[&str]) -> Finished {
    let mut build = host.microagent(["--quiet", "--json", "kernel", "build", "--source"]);
    build.argument(source);
    for flag in flags {
        build.argument(*flag);
    }
    build.deadline(Duration::from_secs(300)).finish()
}

#[test]
fn an_unknown_option_is_refused_by_name() {
    let source = or_skip!(built_kernel::source());
    or_skip!(tool::find("flex"));
    let host = or_skip!(Host::new());
    let fragment = host.path("my.config");
    fs::write(&fragment, "CONFIG_NO_SUCH_THING=y\n").unwrap();
    let finished = failing(&host, &source, &["--config", fragment.to_str().unwrap()]);
    let error = finished.error();
    assert_eq!(error["kind"], "usage", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("CONFIG_NO_SUCH_THING=y was not applied"),
        "{message}"
    );
    host.assert_clean();
}

#[test]
fn an_invalid_line_of_a_fragment_is_reported_before_the_build() {
    let host = or_skip!(Host::new());
    let fragment = host.path("bad.config");
    fs::write(&fragment, "CONFIG_A=y\nmake it fast\n").unwrap();
    let finished = failing(
        &host,
        Path::new("/nowhere"),
        &["--config", fragment.to_str().unwrap()],
    );
    let message = finished.error()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("bad.config, line 2: \"make it fast\""),
        "{message}"
    );
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let host = or_skip!(Host::new());
    let tools = host.path("tools");
    fs::create_dir(&tools).unwrap();
    for program in [
        "sh", "make", "gcc", "ld", "bison", "bc", "perl", "awk", "gzip",
    ] {
        let path = or_skip!(tool::find(program));
        std::os::unix::fs::symlink(path, tools.join(program)).unwrap();
    }
    let source = host.path("linux.tar");
    fs::write(&source, Tar::new().file("linux/Makefile", b"").finish()).unwrap();
    let finished = host
        .microagent(["--json", "kernel", "build", "--source"])
        .argument(&source)
        .variable("PATH", &tools)
        .finish();
    let error = finished.error();
    assert_eq!(error["kind"], "host", "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("requires flex"), "{message}");
    assert_eq!(error["remediation"], "apt-get install flex", "{error}");
    host.assert_clean();
}

#[test]
fn an_invalid_source_is_refused_and_writes_nothing_outside() {
    or_skip!(tool::find("flex"));
    let host = or_skip!(Host::new());
    let outside = host.path("outside");
    let good = Tar::new()
        .directory("linux")
        .file("linux/Makefile", b"all:\n")
        .finish();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("text", b"hello".to_vec(), ""),
        ("empty", Vec::new(), "it is empty"),
        ("other", good.clone(), "it does not contain Kconfig"),
        (
            "above",
            Tar::new().file("linux/../../outside", b"x").finish(),
            "linux/../../outside points outside of it",
        ),
        (
            "absolute",
            Tar::new()
                .entry(outside.to_str().unwrap(), tar::EntryType::Regular, "", b"x")
                .finish(),
            "",
        ),
        (
            "through-link",
            Tar::new()
                .directory("linux")
                .symlink("linux/a", host.path("").to_str().unwrap())
                .file("linux/a/outside", b"x")
                .finish(),
            "linux/a points outside of it",
        ),
        ("cut", good[..700].to_vec(), ""),
    ];
    for (name, bytes, why) in cases {
        let source = host.path(name);
        fs::write(&source, bytes).unwrap();
        let error = failing(&host, &source, &[]).error();
        assert_eq!(error["kind"], "unsupported", "{name}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(why) && message.contains(name),
            "{name}: {message}"
        );
        assert!(!outside.exists(), "{name}");
        fs::remove_file(&source).unwrap();
    }
    host.assert_clean();
}

#[test]
fn an_interrupted_build_leaves_neither_files_nor_processes() {
    let source = or_skip!(built_kernel::source());
    or_skip!(tool::find("flex"));
    let host = or_skip!(Host::new());
    let mut build = host.microagent(["kernel", "build", "--source"]);
    let mut running = build
        .argument(&source)
        .deadline(Duration::from_secs(300))
        .start();
    running.wait_for_error_text("kernel source: done");
    running.signal(Signal::INT);
    let finished = running.finish();
    assert_eq!(finished.code, Some(130), "{}", finished.errors());
    assert_eq!(host.processes(), Vec::<String>::new());
    host.assert_clean();
}
