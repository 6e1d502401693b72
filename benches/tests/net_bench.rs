//! The benchmark of networks: that it measures, and that our device is not far behind QEMU's.

mod harness;

use harness::Written;
use microagent_tests::{or_skip, root_or_skip, tool};

#[test]
fn a_guest_sends_and_receives_beside_one_of_qemu() {
    root_or_skip!();
    for program in [
        "qemu-system-x86_64",
        "passt",
        "ip",
        "nsenter",
        "busybox",
        "umoci",
        "make",
        "gcc",
        "flex",
        "bison",
        "bc",
    ] {
        or_skip!(tool::find(program));
    }
    let program = env!("CARGO_BIN_EXE_net-bench");
    let Written { report, markdown } = harness::run(
        "net-bench",
        program,
        &["--only-host", "--rounds", "1", "--mib", "32"],
    );
    let measured = &report[0]["measured"];
    let [ours, theirs] = [0, 1].map(|monitor| &measured["boots"][0][monitor]);
    let published = &measured["commands"]["published"][0];
    for what in ["up", "down", "trip", "connections"] {
        for figures in [ours, theirs, published, &measured["direct"]] {
            assert!(figures[what].as_f64().unwrap() > 0.0, "{what}: {figures}");
        }
    }
    // The target is 1. One round on a busy host varies.
    for what in ["up", "down"] {
        let ratio = ours[what].as_f64().unwrap() / theirs[what].as_f64().unwrap();
        assert!(ratio > 0.5, "{what}: {ratio}");
    }
    assert_eq!(measured["commands"]["run"].as_array().unwrap().len(), 1);
    assert!(markdown.contains("| up, Gbit/s |") && !markdown.contains("stale"));
}
