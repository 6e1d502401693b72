//! The content of the store after a run, and the run's JSON document.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, tool};
use serde_json::Value;

#[test]
fn the_document_of_a_run_is_complete() {
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
    assert!(!document["nodes"].as_array().unwrap().is_empty());
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
    // Copying reads and verifies every blob.
    let copy = format!("oci:{}:copy", host.path("copy").display());
    tool::run(
        "skopeo",
        ["copy", "--quiet", "--insecure-policy", &reference, &copy],
    )
    .unwrap();
}

#[test]
fn concurrent_runs_share_one_store() {
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
fn a_missing_kernel_is_installed_and_announced() {
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
fn a_kept_run_leaves_its_workspace() {
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
