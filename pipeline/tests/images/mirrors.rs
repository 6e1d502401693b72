//! Mirrors: tried before the registry, not trusted, and skipped if they fail.

use std::path::Path;

use microagent_pipeline::{Error, Registries, Rootfs, RootfsOptions};
use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::{CREDENTIALS, Registry};

use crate::scripted_server::{ScriptedServer, answer};
use crate::support::{self, TestDir, chain};

/// The busybox image with an incompressible layer of 4 MiB.
fn image() -> Result<Layout, microagent_tests::Error> {
    let layout = Layout::busybox()?;
    let large = "dd if=/dev/urandom of=large bs=1M count=4 2>/dev/null";
    layout.add_layer("latest", &support::layer(large, &[]))?;
    Ok(layout)
}

fn registries(directory: &Path, of: &str, mirrors: &[&str]) -> Registries {
    let path = directory.join("registries.json");
    let document = serde_json::json!({ "registries": { of: { "mirrors": mirrors } } });
    std::fs::write(&path, document.to_string()).unwrap();
    Registries::read(&path).unwrap()
}

/// Builds `registry/app:1` with these mirrors of the registry, in an empty store.
fn build(registry: &str, mirrors: &[&str]) -> Result<Rootfs, Error> {
    let dir = TestDir::new();
    let directory = tempfile::tempdir().unwrap();
    let pipeline =
        (dir.pipeline()).with_registries(registries(directory.path(), registry, mirrors));
    let reference = format!("{registry}/app:1").parse()?;
    let image = pipeline.resolve(&reference)?;
    pipeline.rootfs(&image, &RootfsOptions::default())
}

fn rule(path: &str, fault: Fault) -> Rule {
    Rule {
        path: path.to_owned(),
        fault,
        times: None,
    }
}

#[test]
fn a_mirror_is_tried_under_its_prefix_before_the_registry() {
    let layout = or_skip!(image());
    let mirror = or_skip!(Registry::start());
    mirror
        .push(&layout.reference("latest"), "hub/cache/app:1")
        .unwrap();
    let registry = ScriptedServer::start(|_, _| answer(500, &[], ""));
    let address = format!("{}/hub/cache", mirror.address());
    build(&registry.address, &[&address]).unwrap();
    assert!(registry.requests().is_empty());
}

#[test]
fn if_a_mirror_fails_in_any_way_the_registry_is_used() {
    let layout = or_skip!(image());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let empty = or_skip!(Registry::start());
    let closed = or_skip!(Registry::with_password());
    let direct = build(registry.address(), &[]).unwrap();
    let busy = |status| Fault::Status(status, vec!["Retry-After: 0".to_owned()]);
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for mirror in [&*gone.to_string(), empty.address(), closed.address()] {
        let built = build(registry.address(), &[mirror]).unwrap();
        assert_eq!(built.digest, direct.digest);
    }
    for (path, fault) in [
        ("/", busy(500)),
        ("/", busy(429)),
        ("/", busy(403)),
        ("/", Fault::Drop),
        ("/blobs/", busy(404)),
        ("/blobs/", busy(503)),
        ("/blobs/", Fault::CutAfter(700)),
        ("/manifests/", Fault::FlipBitAt(30)),
        ("/manifests/", Fault::CutAfter(30)),
    ] {
        let shown = format!("{path} {fault:?}");
        let mirror = FaultProxy::start(registry.address(), vec![rule(path, fault)]).unwrap();
        let built = build(registry.address(), &[mirror.address()]);
        let built = built.unwrap_or_else(|error| panic!("{shown}: {}", chain(&error)));
        assert_eq!(built.digest, direct.digest);
        assert!(!mirror.requests().is_empty());
    }
}

#[test]
fn a_transfer_cut_off_by_a_mirror_resumes_at_the_next_one() {
    let layout = or_skip!(image());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let cut = vec![rule("/blobs/", Fault::CutAfter(3 << 20))];
    let first = or_skip!(FaultProxy::start(registry.address(), cut));
    let second = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    let origin = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    build(origin.address(), &[first.address(), second.address()]).unwrap();
    let resumed = second.requests();
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    assert!(
        resumed[0].ends_with(" Range: bytes=3145728-"),
        "{resumed:?}"
    );
    assert!(origin.requests().is_empty());
}

#[test]
fn a_failed_mirror_is_not_tried_again() {
    let layout = or_skip!(image());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let mirror = ScriptedServer::start(|_, _| answer(500, &["Retry-After: 0"], ""));
    build(registry.address(), &[&mirror.address]).unwrap();
    assert_eq!(mirror.requests().len(), 2, "the manifest and one retry");
}

#[test]
fn if_all_fail_the_error_names_each_mirror_and_its_reason() {
    let closed = or_skip!(Registry::with_password());
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (gone, registry) = (free().to_string(), free().to_string());
    let error = build(&registry, &[&gone, closed.address()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "image {registry}/app:1: registry {registry} refused the connection (mirrors: registry {gone} refused the connection; registry {} requires credentials)",
            closed.address()
        )
    );
}

#[test]
fn a_mirror_has_separate_credentials() {
    let layout = or_skip!(image());
    let mirror = or_skip!(Registry::with_password());
    mirror
        .push(&layout.reference("latest"), "hub/app:1")
        .unwrap();
    let registry = ScriptedServer::start(|_, _| answer(401, &[], ""));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.json");
    let (user, password) = CREDENTIALS;
    let document = serde_json::json!({ "auths": {
        format!("{}/hub", mirror.address()): { "username": user, "password": password },
        registry.address.as_str(): { "auth": "YTpi" },
    }});
    std::fs::write(&file, document.to_string()).unwrap();
    let mirrors = format!("{}/hub", mirror.address());
    registries(directory.path(), &registry.address, &[&mirrors]);
    let output = crate::auth::build_with(
        &[
            ("REGISTRY_AUTH_FILE", &file),
            (
                "MICROAGENT_TEST_REGISTRIES",
                &directory.path().join("registries.json"),
            ),
        ],
        &format!("{}/app:1", registry.address),
    );
    assert_eq!(output, "built");
    assert!(registry.requests().is_empty());
}
