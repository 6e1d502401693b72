//! Independence from the host: `doctor` is correct, a fallback is announced, and long paths work.

use std::path::Path;
use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;
use microagent_tests::{binaries, or_skip, program, root_or_skip, tool};

/// What `doctor` says to do about the time that a VM's creation takes is done, and it no longer
/// says so. Prints both remediations, and whether each made it faster.
const VM_CREATION: &str = r#"
    sudo() { "$@"; }
    look() {
        microagent doctor | sed -n '/^vm creation/ { N; p; }' >found
        remediation=$(sed -n 's/^ *-> //p' found)
        micros=$(sed -n 's/^vm creation *\([0-9]*\)\.\([0-9]\) ms.*/\1\200/p' found)
    }
    mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
    look; echo "$remediation"; before=$micros
    eval "$remediation"; look; echo "$remediation"; [ "$micros" -lt "$before" ] && echo faster
    # Without the option again, and then without cgroups.
    umount /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; umount /sys/fs/cgroup
    look; echo "$remediation"; before=$micros
    eval "${remediation#while no VM runs: }"; look
    echo "$remediation"; [ "$micros" -lt "$before" ] && echo faster
    cat found >&2"#;

/// What `doctor` says to do about a missing KVM is done, on the hardware that the lab is, and it no
/// longer says so. Prints both remediations.
const MODULE: &str = r#"
    sudo() { "$@"; }
    modprobe() { insmod /lab/modules/$(echo $1 | tr _ -).ko; }
    look() { microagent doctor | sed -n '/^kvm/ { N; p; }' | sed -n 's/^ *-> //p' >found; cat found; }
    rmmod kvm_amd; rm -f /dev/kvm
    look
    eval "$(sed 's/.*then //; s/ or .*//; s/kvm_intel/kvm_amd/' found)"
    look; echo"#;

#[test]
fn doctor_reports_the_automatic_engine_and_run_uses_it() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let doctor = host
        .microagent(["--json", "doctor"])
        .finish()
        .expect_code(0)
        .json();
    let engine = doctor["engine"]["auto"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(["kvm", "qemu"].contains(&engine.as_str()), "{doctor}");
    assert!(doctor["kernel"]["installed"].is_object(), "{doctor}");

    let image = layout.reference("latest");
    // The fallback is announced with doctor's reason, once for a state directory.
    let why = doctor["engine"]["why"].as_str().unwrap_or_default();
    let notice = format!("using QEMU, which is slow: {why} (see: microagent doctor)");
    for (flag, announced) in [("--no-color", true), ("--no-color", false), ("-v", true)] {
        // The engine is selected before the image is looked for.
        let run = host
            .microagent([flag, "run", "oci:nowhere:x", "true"])
            .finish()
            .expect_code(125);
        let count = run.errors().matches(&notice).count();
        let expected = usize::from(announced && engine == "qemu");
        assert_eq!(count, expected, "{flag}: {}", run.errors());
    }
    let run = host
        .microagent(["run", "--json", "--quiet", &image, "true"])
        .finish()
        .expect_code(0);
    assert_eq!(run.json()["engine"], engine);
    host.assert_clean();
}

#[test]
fn doctor_names_what_is_missing_and_the_command_that_fixes_it() {
    root_or_skip!();
    let host = or_skip!(Host::new());
    let script = r#"mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 &&
        mknod -m 666 /dev/urandom c 1 9 &&
        PATH="$(dirname "$(command -v microagent)")" exec microagent doctor"#;
    let text = host
        .shell_with_mounts(script)
        .finish()
        .expect_code(1)
        .text();
    assert!(text.contains("/dev/kvm"), "{text}");
    assert!(
        text.contains("apt-get install --yes qemu-system-x86"),
        "{text}"
    );
    assert!(text.contains("microagent kernel install"), "{text}");
    assert!(!host.state().exists(), "doctor created a state directory");
}

/// With the deterministic clock, because without it a time is also that of other programs.
#[test]
fn what_doctor_says_about_the_creation_of_vms_works() {
    let mut lab = or_skip!(Lab::with_machine(Machine {
        deterministic_clock: true,
        memory_mib: 512,
        deadline: Duration::from_secs(600),
        ..Machine::default()
    }));
    lab.microagent().unwrap();
    lab.step("module", MODULE, 60);
    lab.step("vm creation", VM_CREATION, 300);
    let report = lab.boot().unwrap();
    let step = report.step("module");
    assert_eq!(
        step.text(),
        "on hardware: enable virtualization in the firmware, then sudo modprobe kvm_intel or kvm_amd; \
         in a VM: enable nested virtualization\n\n",
        "{}",
        step.errors()
    );
    let step = report.step("vm creation");
    assert_eq!(
        step.text(),
        "sudo mount -o remount,favordynmods /sys/fs/cgroup\n\nfaster\n\
         while no VM runs: echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages\n\
         never\n\nfaster\n",
        "{}",
        step.errors()
    );
}

/// The path of a Unix socket has at most 107 bytes; these names have more.
#[test]
fn long_state_directories_and_names_work() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let long = host.path(&"long-".repeat(40));
    std::fs::rename(host.state(), &long).unwrap();
    let name = "n".repeat(63);
    let finished = host
        .microagent(["--engine", "qemu", "run", "--name", &name, "--image"])
        .argument(layout.reference("latest"))
        .argument("--exec")
        .argument("hostname")
        .variable("MICROAGENT_STATE_DIR", &long)
        .variable("XDG_RUNTIME_DIR", host.path(&"run-".repeat(40)))
        .finish()
        .expect_code(0);
    assert_eq!(finished.text(), format!("{name}\n"));
    host.assert_clean();
}

#[test]
fn the_supervisor_flag_selects_the_program() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let image = layout.reference("latest");
    let run = |supervisor: &Path| {
        let mut invocation = host.microagent(["--quiet", "--engine", "qemu", "run"]);
        invocation.argument("--supervisor").argument(supervisor);
        invocation.argument(&image).argument("true").finish()
    };
    let missing = host.path("no-such-supervisor");
    let refused = run(&missing).expect_code(125);
    let name = missing.display().to_string();
    assert!(refused.errors().contains(&name), "{}", refused.errors());
    let copy = host.path("supervisor");
    program::copy(binaries::supervisor(), &copy).unwrap();
    run(&copy).expect_code(0);
    host.assert_clean();
}

#[test]
fn the_version_is_one_line() {
    let host = or_skip!(Host::new());
    let finished = host.microagent(["version"]).finish().expect_code(0);
    assert!(
        finished.text().starts_with("microagent 0."),
        "{}",
        finished.text()
    );
    assert_eq!(finished.text().lines().count(), 1);
    let document = host
        .microagent(["--json", "version"])
        .finish()
        .expect_code(0)
        .json();
    assert!(document["version"].is_string(), "{document}");
}
