//! Tests of the harness: the registry, the injected faults, the detection of leftovers, the
//! listings of trees.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::{self, Layout};
use microagent_tests::microagent::Host;
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{Error, or_skip, root_or_skip, tool, tree};

/// Copies an image from a registry with skopeo, without retries.
fn pull(address: &str, name: &str, credentials: Option<(&str, &str)>) -> Result<Vec<u8>, Error> {
    let target = tempfile::tempdir().unwrap();
    let mut command = Command::new(tool::find("skopeo")?);
    command.args(["copy", "--insecure-policy", "--src-tls-verify=false"]);
    if let Some((user, password)) = credentials {
        command.arg("--src-creds").arg(format!("{user}:{password}"));
    }
    command
        .arg(format!("docker://{address}/{name}"))
        .arg(format!("dir:{}", target.path().join("image").display()));
    tool::output(&mut command)
}

fn pushed() -> Result<(Registry, Layout), Error> {
    let registry = Registry::start()?;
    let layout = Layout::busybox()?;
    registry.push(&layout.reference("latest"), "test/image:1")?;
    Ok((registry, layout))
}

/// Pulls through a proxy with this fault. Returns `pulled`, or skopeo's standard error.
fn pull_with_fault(fault: Fault, path: &str, times: Option<u32>) -> Result<String, Error> {
    let (registry, _layout) = pushed()?;
    let rule = Rule {
        path: path.to_owned(),
        fault,
        times,
    };
    let proxy = FaultProxy::start(registry.address(), vec![rule])?;
    match pull(proxy.address(), "test/image:1", None) {
        Ok(_) => Ok("pulled".to_owned()),
        Err(Error::Tool { stderr, .. }) => Ok(stderr),
        Err(error) => Err(error),
    }
}

#[test]
fn the_registry_serves_what_was_pushed() {
    let (registry, layout) = or_skip!(pushed());
    let name = format!("docker://{}/test/image:1", registry.address());
    let digest = tool::text(
        "skopeo",
        [
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            &name,
        ],
    )
    .unwrap();
    assert_eq!(digest, layout.digest("latest").unwrap());
}

#[test]
fn the_registry_with_a_password_requires_it() {
    let registry = or_skip!(Registry::with_password());
    let layout = or_skip!(Layout::busybox());
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    assert!(pull(registry.address(), "test/image:1", None).is_err());
    assert!(
        pull(
            registry.address(),
            "test/image:1",
            Some((CREDENTIALS.0, "wrong"))
        )
        .is_err()
    );
    pull(registry.address(), "test/image:1", Some(CREDENTIALS)).unwrap();
}

#[test]
fn a_proxy_without_rules_changes_nothing() {
    let (registry, _layout) = or_skip!(pushed());
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    pull(proxy.address(), "test/image:1", None).unwrap();
    let requests = proxy.requests();
    assert!(
        requests.contains(&"GET /v2/test/image/manifests/1".to_owned()),
        "{requests:?}"
    );
}

#[test]
fn a_cut_blob_is_truncated() {
    let stderr = or_skip!(pull_with_fault(Fault::CutAfter(1000), "/blobs/", None));
    assert!(stderr.contains("unexpected EOF"), "{stderr}");
}

#[test]
fn a_flipped_bit_changes_the_digest() {
    let stderr = or_skip!(pull_with_fault(Fault::FlipBitAt(100), "/blobs/", None));
    assert!(stderr.contains("Digest did not match"), "{stderr}");
}

#[test]
fn a_status_is_returned_the_given_number_of_times() {
    let status = Fault::Status(500, Vec::new());
    let stderr = or_skip!(pull_with_fault(status, "/manifests/", None));
    assert!(stderr.contains("500"), "{stderr}");
    // Skopeo retries after a 429.
    let status = Fault::Status(429, vec!["Retry-After: 0".to_owned()]);
    assert_eq!(
        or_skip!(pull_with_fault(status, "/manifests/", Some(1))),
        "pulled"
    );
}

#[test]
fn a_stalled_request_is_recorded() {
    let rule = Rule {
        path: "/v2/".to_owned(),
        fault: Fault::Stall,
        times: None,
    };
    let proxy = or_skip!(FaultProxy::start("127.0.0.1:1", vec![rule]));
    let client = std::net::TcpStream::connect(proxy.address()).unwrap();
    std::io::Write::write_all(&mut &client, b"GET /v2/ HTTP/1.1\r\n\r\n").unwrap();
    proxy.wait_for("/v2/", Duration::from_secs(10)).unwrap();
}

/// The message of `assert_clean` after this script.
fn left_behind_by(script: &str) -> String {
    let host = Host::new().unwrap();
    let pids = host.path("pids");
    host.shell(script)
        .variable("PIDS", &pids)
        .finish()
        .expect_code(0);
    let result = std::panic::catch_unwind(|| host.assert_clean());
    for pid in fs::read_to_string(&pids).unwrap_or_default().lines() {
        tool::run("kill", ["-KILL", pid]).unwrap();
    }
    match result {
        Ok(()) => "nothing".to_owned(),
        Err(panic) => panic.downcast_ref::<String>().unwrap().clone(),
    }
}

#[test]
fn a_run_that_leaves_nothing_is_clean() {
    let script = r#"mkdir -p "$MICROAGENT_STATE_DIR/run" "$XDG_RUNTIME_DIR/microagent" &&
        : >"$MICROAGENT_STATE_DIR/run/engine.json""#;
    assert_eq!(left_behind_by(script), "nothing");
}

#[test]
fn a_process_left_behind_is_detected() {
    let script = r#"cd / && sleep 1000 >/dev/null 2>&1 & echo $! >"$PIDS""#;
    let left = left_behind_by(script);
    assert!(
        left.contains("process ") && left.contains("sleep 1000"),
        "{left}"
    );
}

#[test]
fn a_file_or_directory_left_behind_is_detected() {
    for path in [
        "$TMPDIR/x",
        "$XDG_RUNTIME_DIR/microagent/id",
        "$MICROAGENT_STATE_DIR/workspaces/name",
        "$MICROAGENT_STATE_DIR/cas/tmp/x",
        "$MICROAGENT_STATE_DIR/run/x",
    ] {
        let left = left_behind_by(&format!("mkdir -p \"{path}\""));
        let end = path.rsplit('/').next().unwrap();
        assert!(
            left.contains("file ") && left.contains(end),
            "{path}: {left}"
        );
    }
}

#[test]
fn the_listing_of_a_file_system_image_equals_that_of_its_directory() {
    root_or_skip!();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    fs::hard_link(root.join("file"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("file", root.join("symlink")).unwrap();
    std::os::unix::fs::chown(root.join("file"), Some(1234), Some(5678)).unwrap();
    or_skip!(tool::run(
        "setfattr",
        [
            "-n",
            "user.a",
            "-v",
            "b",
            root.join("file").to_str().unwrap()
        ]
    ));
    let image = directory.path().join("image");
    let text = |path: &Path| path.display().to_string();
    or_skip!(tool::run(
        "mke2fs",
        ["-q", "-t", "ext4", "-d", &text(&root), &text(&image), "16M"]
    ));
    let from_image = tree::list_ext4(&image).unwrap();
    let from_directory = tree::list(&root).unwrap();
    assert_eq!(from_directory.len(), 4);
    // mke2fs adds this directory to every file system.
    assert_eq!(
        tree::difference(&from_directory, &from_image),
        "+ /lost+found 040700 0:0"
    );
}

#[test]
fn the_debian_image_has_the_edge_cases_of_layers() {
    root_or_skip!();
    let layout = or_skip!(image::debian());
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    let image = format!("{}:debian", layout.display());
    tool::run(
        "umoci",
        ["unpack", "--image", &image, bundle.to_str().unwrap()],
    )
    .unwrap();
    let odd = bundle.join("rootfs/odd");
    assert!(!odd.join("removed").exists());
    assert!(odd.join("was-directory").is_file());
    assert!(odd.join("was-file").is_dir());
    assert!(odd.join("opaque/upper").exists());
    assert!(!odd.join("opaque/lower").exists());
    assert!(bundle.join("rootfs/usr/bin/python3").exists());
}
