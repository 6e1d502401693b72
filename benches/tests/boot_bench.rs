//! The boot benchmark, and the check that boots do not become slower.

use std::fs;
use std::process::Command;

use microagent_tests::{binaries, or_skip, tool};
use serde_json::Value;

/// The stored boot time, written by `boot-bench --store-baseline`.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/boot/baseline.json");

#[test]
fn a_boot_takes_no_more_instructions_than_the_baseline() {
    for program in ["qemu-system-x86_64", "make", "gcc", "flex", "bison", "bc"] {
        or_skip!(tool::find(program));
    }
    let directory = tempfile::tempdir().unwrap();
    let [json, svg, markdown] = ["json", "svg", "md"].map(|name| directory.path().join(name));
    let marks = "before\n<!-- boot-bench: begin -->\nstale\n<!-- boot-bench: end -->\nafter\n";
    fs::write(&markdown, marks).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_boot-bench"))
        .args(["--iterations", "5", "--only-built", "--baseline", BASELINE])
        .arg("--json")
        .arg(&json)
        .arg("--svg")
        .arg(&svg)
        .arg("--markdown")
        .arg(&markdown)
        .env("MICROAGENT_BIN_DIR", binaries::directory())
        .output()
        .expect("the harness can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let perf = &report["boots"][0]["perf"];
    assert_eq!(perf["engine"], "kvm");
    let names: Vec<&str> = perf["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "command line starts",
            "supervisor spawned",
            "supervisor starts",
            "VM created",
            "node look-ups",
            "supervisor configured",
            "kernel loaded",
            "vCPUs, devices",
            "first instruction",
            "kernel entry",
            "kernel",
            "agent ready",
            "root mounted",
            "command executed",
            "first output",
            "command exits",
            "caller has the exit code",
        ]
    );
    // The parts are where they belong: one after the other up to the exit code.
    let whole = |name: &str| perf["whole"][name]["median"].as_f64().unwrap();
    assert!(whole("toAgentMillis") < whole("toFirstOutputMillis"));
    assert!(whole("toFirstOutputMillis") < whole("toExitCodeMillis"));
    let monitors = perf["monitors"].as_array().unwrap();
    assert_eq!(monitors[0]["name"], "microagent");
    let qemu = &monitors[monitors.len() - 1];
    assert!(qemu["name"].as_str().unwrap().starts_with("QEMU"), "{qemu}");
    for guest in ["userspace", "nothing"] {
        let ratio = qemu[guest]["oursDividedByThis"].as_f64().unwrap();
        assert!(
            (0.01..1.0).contains(&ratio),
            "{guest}: {ratio} of QEMU's time"
        );
    }

    // A snapshot saves the boot: 0.47, 15 ms of it the wait for KVM_CREATE_VM.
    let exit = |perf: &Value| {
        perf["whole"]["toExitCodeMillis"]["median"]
            .as_f64()
            .unwrap()
    };
    let ratio = exit(&report["boots"][0]["restored"]) / exit(perf);
    assert!((0.1..0.52).contains(&ratio), "{ratio} of a boot");

    let markdown = fs::read_to_string(&markdown).unwrap();
    assert!(markdown.starts_with("before\n") && markdown.ends_with("\nafter\n"));
    assert!(markdown.contains("From a snapshot ÷ booted, command to exit code: 0."));
    assert!(markdown.contains("| **command to exit code** |") && !markdown.contains("stale"));
    assert!(fs::read_to_string(&svg).unwrap().contains("kernel entry"));
}
