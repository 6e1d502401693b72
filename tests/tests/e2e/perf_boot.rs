//! `perf boot` with engine `qemu` on this host. With engine `kvm` the lab runs it (`benches/tests/boot_bench.rs`).

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{built_kernel, or_skip, tool};
use serde_json::Value;

fn perf_boot(host: &Host, layout: &Layout, globals: &[&str], flags: &[&str]) -> Finished {
    let image = layout.reference("latest");
    let mut words = globals.to_vec();
    words.extend(["--engine", "qemu", "perf", "boot", "--image", &image]);
    words.extend(["--memory", "256", "--cpus", "1"]);
    words.extend(flags);
    host.microagent(words)
        .deadline(Duration::from_secs(240))
        .finish()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn the_phases_of_a_boot_are_reported_and_compared_with_the_other_monitor() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());

    // With a single boot the ratio is exact.
    let flags = ["--iterations", "1"];
    let report = perf_boot(&host, &layout, &["--json"], &flags)
        .expect_code(0)
        .json();
    assert_eq!(report["engine"], "qemu");
    assert_eq!(report["iterations"], 1);
    assert_eq!(report["resources"]["memoryMiB"], 256);
    let parts = report["parts"].as_array().unwrap();
    let last = parts.last().unwrap();
    assert_eq!(parts[0]["name"], "command line starts");
    assert_eq!(number(&parts[0]["startMillis"]), 0.0);
    assert_eq!(last["name"], "caller has the exit code");
    for part in parts {
        let time = &part["millis"];
        let [least, median, most] = ["least", "median", "most"].map(|which| number(&time[which]));
        assert!(0.0 <= least && least <= median && median <= most, "{part}");
    }
    let whole = |name: &str| number(&report["whole"][name]["median"]);
    let points = ["toAgentMillis", "toFirstOutputMillis", "toExitCodeMillis"].map(whole);
    assert!(points.is_sorted(), "{points:?}");
    let monitors = report["monitors"].as_array().unwrap();
    assert_eq!(monitors[0]["name"], "microagent");
    let qemu = monitors
        .iter()
        .find(|monitor| {
            monitor["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("QEMU"))
        })
        .unwrap_or_else(|| panic!("{monitors:?}"));
    for what in ["userspace", "nothing"] {
        let (ours, theirs) = (&monitors[0][what], &qemu[what]);
        let ratio = number(&ours["millis"]["median"]) / number(&theirs["millis"]["median"]);
        let reported = number(&theirs["oursDividedByThis"]);
        assert!((reported - ratio).abs() < 1e-9, "{monitors:?}");
    }

    let text = perf_boot(&host, &layout, &[], &["-n", "2", "--alone"])
        .expect_code(0)
        .text();
    assert!(text.starts_with("2 boots of "), "{text}");
    for part in parts {
        let name = part["name"].as_str().unwrap();
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name}: {text}"
        );
    }
    assert!(!text.contains("MONITOR ALONE"), "{text}");
    host.assert_clean();
}

#[test]
fn a_failed_measurement_is_reported_with_a_remediation() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());

    let failed = perf_boot(&host, &layout, &[], &["--exec", "exit 3"]).expect_code(1);
    assert_eq!(
        failed.errors(),
        "microagent: the measured command failed: exit status: 3\n  \
         use a command that exits with 0: --exec COMMAND\n"
    );
    for count in ["0", "10001", "many"] {
        let refused = perf_boot(&host, &layout, &[], &["-n", count]).expect_code(2);
        assert_eq!(
            refused.errors(),
            format!(
                "microagent: --iterations {count:?} is not a valid count\n  \
                 use a whole number from 1 to 10000\n"
            )
        );
    }
    host.assert_clean();
}
