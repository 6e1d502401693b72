//! Caching: a second run repeats no work.

use std::time::Duration;

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::Host;
use microagent_tests::registry::Registry;
use microagent_tests::{or_skip, tool};
use serde_json::Value;

/// The operations of a `run --json` and whether each was a hit, in order.
fn nodes(document: &Value) -> Vec<(String, bool)> {
    document["nodes"]
        .as_array()
        .unwrap_or_else(|| panic!("no nodes: {document}"))
        .iter()
        .map(|node| {
            let op = node["op"].as_str().unwrap_or_else(|| panic!("{node}"));
            (op.to_owned(), node["hit"] == Value::Bool(true))
        })
        .collect()
}

/// How long everything before the VM took, in milliseconds: what a cache can save. A boot takes as
/// long as other tests let it.
fn preparation(document: &Value) -> f64 {
    let phase = |name: &str| document["phases"][name].as_f64().unwrap_or(0.0);
    ["resolve", "rootfs", "kernel", "initramfs"]
        .map(phase)
        .iter()
        .sum()
}

#[test]
fn a_second_run_repeats_no_node_and_prepares_in_half_the_time() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let registry = or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    // Large enough that building takes much longer than a lookup.
    let mut noise = Vec::with_capacity(64 << 20);
    let mut state = 1_u64;
    while noise.len() < 64 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let tar = Tar::new().file("noise", &noise).finish();
    layout.add_layer("latest", &tar).unwrap();
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    let image = format!("{}/test/image:1", proxy.address());
    let host = or_skip!(Host::new());
    let run = || {
        host.microagent(["--json", "--engine", "qemu", "run", &image, "true"])
            .deadline(Duration::from_secs(240))
            .finish()
            .expect_code(0)
    };

    let first = run();
    let made = nodes(&first.json());
    for op in [
        "resolve",
        "fetch",
        "unpack",
        "rootfs",
        "kernel",
        "initramfs",
    ] {
        assert!(
            made.contains(&(op.to_owned(), false)),
            "{op} is not in {made:?}"
        );
    }
    let requests = proxy.requests().len();

    let second = run();
    for (op, hit) in nodes(&second.json()) {
        assert_eq!(hit, op != "resolve", "{op}");
    }
    let new_requests = proxy.requests().split_off(requests);
    assert!(
        new_requests
            .iter()
            .all(|request| !request.contains("/blobs/")),
        "{new_requests:?}"
    );
    let [first, second] = [first, second].map(|run| preparation(&run.json()));
    assert!(second < first / 2.0, "first {first} ms, second {second} ms");
    host.assert_clean();
}
