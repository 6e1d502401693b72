//! What is built is kept: the second run does nothing twice, and other people's tools can read the
//! store.

use std::time::Duration;

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::Layout;
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

#[test]
fn a_second_run_pulls_unpacks_and_builds_nothing_and_takes_half_the_time() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let registry = or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    // Large enough for its making to be more than the boot.
    let mut noise = Vec::with_capacity(256 << 20);
    let mut state = 1_u64;
    while noise.len() < 256 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        noise.extend_from_slice(&state.to_le_bytes());
    }
    let tar = microagent_tests::image::Tar::new()
        .file("noise", &noise)
        .finish();
    layout.add_layer("latest", &tar).unwrap();
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    let image = format!("{}/test/image:1", proxy.address());
    let host = or_skip!(Host::new());
    let package = or_skip!(microagent_tests::lab::kernel()).package;
    let run = || {
        let mut invocation = host.microagent(["--json", "--engine", "qemu", "run", "--kernel"]);
        invocation.argument(&package);
        invocation.argument(&image).argument("true");
        invocation
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
    let asked = proxy.requests().len();

    let second = run();
    for (op, hit) in nodes(&second.json()) {
        assert_eq!(hit, op != "resolve", "{op}");
    }
    let asked_again = proxy.requests().split_off(asked);
    assert!(
        asked_again
            .iter()
            .all(|request| !request.contains("/blobs/")),
        "{asked_again:?}"
    );
    assert!(
        second.elapsed < first.elapsed / 2,
        "first {:?}, second {:?}",
        first.elapsed,
        second.elapsed
    );
    host.assert_clean();
}

#[test]
fn the_document_of_a_run_says_all_of_it() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let host = or_skip!(Host::with_kernel());
    let document = host
        .microagent(["--json", "--engine", "qemu", "run", "--image", &image])
        .argument("--profile")
        .argument("tiny")
        .argument("--exec")
        .argument("echo out; echo err >&2; exit 4")
        .finish()
        .expect_code(4)
        .json();
    assert_eq!(document["engine"], "qemu");
    assert_eq!(document["stateDir"], host.state().display().to_string());
    assert_eq!(
        document["image"]["digest"],
        layout.digest("latest").unwrap()
    );
    assert_eq!(document["resources"]["memoryMiB"], 256);
    assert_eq!(document["resources"]["cpuCount"], 1);
    assert_eq!(document["resources"]["profile"], "tiny");
    assert_eq!(document["result"]["exitCode"], 4);
    assert_eq!(document["result"]["started"], true);
    assert_eq!(document["result"]["timedOut"], false);
    assert_eq!(document["result"]["stdout"], "out\n");
    assert_eq!(document["result"]["stderr"], "err\n");
    assert_eq!(document["result"]["truncated"], false);
    assert!(document["result"]["signal"].is_null());
    let phases = document["phases"].as_object().unwrap();
    assert!(
        phases
            .values()
            .all(|millis| millis.as_f64().is_some_and(|millis| millis >= 0.0))
    );
    assert!(!phases.is_empty());
    assert!(!nodes(&document).is_empty());
}

#[test]
fn skopeo_reads_the_store() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    host.microagent([
        "--quiet",
        "rootfs",
        "build",
        "--allow-mutable",
        "--out",
        "out",
        "--image",
    ])
    .argument(layout.reference("latest"))
    .finish()
    .expect_code(0);
    let store = host.state().join("cas");
    let index: Value =
        serde_json::from_slice(&std::fs::read(store.join("index.json")).unwrap()).unwrap();
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap_or_else(|| panic!("{index}"));
    let reference = format!("oci:{}:{name}", store.display());
    let digest = tool::text("skopeo", ["inspect", "--format", "{{.Digest}}", &reference]).unwrap();
    assert_eq!(digest, layout.digest("latest").unwrap());
    // All of it: every blob is read and verified by the copy.
    let copy = format!("oci:{}:copy", host.path("copy").display());
    tool::run(
        "skopeo",
        ["copy", "--quiet", "--insecure-policy", &reference, &copy],
    )
    .unwrap();
}

#[test]
fn runs_at_the_same_time_share_one_store() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let host = or_skip!(Host::with_kernel());
    let running: Vec<_> = (0..3)
        .map(|number| {
            let command = format!("echo {number}");
            host.microagent([
                "--engine", "qemu", "run", "--image", &image, "--exec", &command,
            ])
            .deadline(Duration::from_secs(240))
            .start()
        })
        .collect();
    for (number, run) in running.into_iter().enumerate() {
        let finished = run.finish().expect_code(0);
        assert_eq!(finished.text(), format!("{number}\n"));
    }
    host.assert_clean();
}

#[test]
fn a_missing_kernel_is_installed_with_a_word_about_it() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let finished = host
        .microagent(["--engine", "qemu", "run", "--image"])
        .argument(layout.reference("latest"))
        .argument("--exec")
        .argument("uname -r")
        .deadline(Duration::from_secs(300))
        .finish()
        .expect_code(0);
    assert!(
        finished.errors().contains("linux-image-"),
        "{}",
        finished.errors()
    );
    let release = finished.text();
    assert!(
        finished.errors().contains(release.trim()),
        "{release}: {}",
        finished.errors()
    );
    host.assert_clean();
}

#[test]
fn a_kept_run_stays_until_it_is_removed() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    host.microagent([
        "--engine", "qemu", "run", "--keep", "--name", "kept", "--image",
    ])
    .argument(layout.reference("latest"))
    .argument("--exec")
    .argument("echo x >/written")
    .finish()
    .expect_code(0);
    assert!(host.state().join("workspaces/kept").is_dir());
    assert_eq!(host.processes(), Vec::<String>::new());
}
