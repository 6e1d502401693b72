//! A real registry, directly and behind a proxy that injects faults.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use microagent_pipeline::{Error, ErrorKind};
use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::Registry;

use crate::support::{self, TestDir, build, chain};

/// A registry with `app:1`: the busybox image and an incompressible layer of 4 MiB.
fn registry() -> Result<(Registry, Layout), microagent_tests::Error> {
    let layout = Layout::busybox()?;
    let large = "dd if=/dev/urandom of=large bs=1M count=4 2>/dev/null";
    layout.add_layer("latest", &support::layer(large, &[]))?;
    let registry = Registry::start()?;
    registry.push(&layout.reference("latest"), "app:1")?;
    Ok((registry, layout))
}

fn rule(path: &str, fault: Fault, times: Option<u32>) -> Rule {
    Rule {
        path: path.to_owned(),
        fault,
        times,
    }
}

/// Builds through a proxy with these fault rules and checks that no temporary file
/// is left. Returns the error and the proxy's requests.
#[track_caller]
fn build_with_faults(rules: Vec<Rule>) -> (Option<Error>, Vec<String>) {
    let (registry, _layout) = registry().unwrap();
    let proxy = FaultProxy::start(registry.address(), rules).unwrap();
    let dir = TestDir::new();
    let result = build(&dir, &format!("{}/app:1", proxy.address()));
    let left = std::fs::read_dir(dir.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
    (result.err(), proxy.requests())
}

#[test]
fn a_missing_image_or_tag_is_reported() {
    let (registry, _layout) = or_skip!(registry());
    let dir = TestDir::new();
    for (name, expected) in [
        ("none:1", "does not have this image"),
        ("app:none", "does not have this tag or digest"),
    ] {
        let reference = format!("{}/{name}", registry.address());
        let error = build(&dir, &reference).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            format!(
                "image {reference}: registry {} {expected}",
                registry.address()
            )
        );
    }
}

#[test]
fn an_unreachable_registry_is_reported_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dir = TestDir::new();
    let error = build(&dir, &format!("{free}/app:1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image {free}/app:1: registry {free} refused the connection")
    );
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.retryable());

    let error = build(&dir, "registry.invalid/app:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        error.to_string(),
        "image registry.invalid/app:1: registry registry.invalid cannot be resolved"
    );
}

#[test]
fn an_interrupted_transfer_resumes_where_it_stopped() {
    let (error, requests) =
        build_with_faults(vec![rule("/blobs/", Fault::CutAfter(2 << 20), None)]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    // The large layer took three requests, one per piece.
    let blobs = requests
        .iter()
        .filter(|line| line.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 3 + 2, "{requests:?}");
}

#[test]
fn a_transfer_goes_on_as_long_as_there_is_progress() {
    let (error, requests) =
        build_with_faults(vec![rule("/blobs/", Fault::CutAfter(280_000), None)]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    let is_resumed = |line: &&String| line.contains(" Range: bytes=");
    assert!(
        requests.iter().filter(is_resumed).count() > 14,
        "{requests:?}"
    );

    let (error, _) = build_with_faults(vec![
        rule("/blobs/", Fault::CutAfter(70_000), Some(2)),
        rule("/blobs/", Fault::CutAfter(0), None),
    ]);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let text = chain(&error);
    assert!(text.contains("is truncated: received"), "{text}");
}

#[test]
fn any_other_answer_to_a_range_means_the_whole_layer() {
    let (registry, _layout) = or_skip!(registry());
    let reference = format!("{}/app:1", registry.address());
    let image = TestDir::new()
        .pipeline()
        .resolve(&reference.parse().unwrap());
    let layer = image.unwrap().layers[1].digest.to_string();
    for status in [204, 400, 403, 404, 416, 501] {
        let rules = vec![
            rule(&layer, Fault::CutAfter(2 << 20), Some(1)),
            // Statuses from 500 are tried four times.
            rule(
                &layer,
                Fault::Status(status, vec![]),
                Some(if status < 500 { 1 } else { 4 }),
            ),
        ];
        let proxy = FaultProxy::start(registry.address(), rules).unwrap();
        let built = build(&TestDir::new(), &format!("{}/app:1", proxy.address()));
        built.unwrap_or_else(|error| panic!("{status}: {}", chain(&error)));
        let mut requests = proxy.requests();
        requests.retain(|line| line.contains(&layer));
        assert_eq!(
            requests.len(),
            if status < 500 { 3 } else { 6 },
            "{requests:?}"
        );
        assert!(
            requests[1].contains(" Range: bytes=2097152-"),
            "{requests:?}"
        );
        assert!(!requests.last().unwrap().contains("Range"), "{requests:?}");
    }
}

#[test]
fn a_complete_partial_download_is_not_fetched_again() {
    let (registry, _layout) = or_skip!(registry());
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    let reference = format!("{}/app:1", proxy.address());
    let dir = TestDir::new();
    let image = dir.pipeline().resolve(&reference.parse().unwrap()).unwrap();
    let layer = &image.layers[1];
    let url = format!(
        "http://{}/v2/app/blobs/{}",
        registry.address(),
        layer.digest
    );
    let mut blob = ureq::get(url).call().unwrap();
    let blob = blob
        .body_mut()
        .with_config()
        .limit(u64::MAX)
        .read_to_vec()
        .unwrap();
    let partial = dir.store().join("partial").join(layer.digest.hex());
    let is_fetched = || {
        let requests = proxy.requests();
        requests
            .iter()
            .any(|line| line.contains(&layer.digest.to_string()))
    };
    std::fs::write(&partial, &blob).unwrap();
    build(&dir, &reference).unwrap();
    assert!(!is_fetched(), "{:?}", proxy.requests());
    // The bytes that another process left are not trusted, and not blamed on the registry.
    for kept in [blob.len(), 2 << 20] {
        let dir = TestDir::new();
        dir.pipeline();
        let partial = dir.store().join("partial").join(layer.digest.hex());
        let mut damaged = blob[..kept].to_vec();
        damaged[1 << 20] ^= 1;
        std::fs::write(&partial, damaged).unwrap();
        build(&dir, &reference).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(is_fetched());
    }
}

#[test]
fn corrupt_blobs_and_manifests_are_refused() {
    let (error, _) = build_with_faults(vec![rule("/blobs/", Fault::FlipBitAt(100_000), None)]);
    let text = error.as_ref().map(|error| chain(error)).unwrap();
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
    assert!(text.contains(": digest mismatch: got sha256:"), "{text}");

    let (error, _) = build_with_faults(vec![rule("/manifests/", Fault::FlipBitAt(5), None)]);
    let text = error.as_ref().map(|error| chain(error)).unwrap();
    assert!(text.starts_with("the manifest of 127.0.0.1:"), "{text}");
    assert!(
        text.contains(": digest mismatch: expected sha256:"),
        "{text}"
    );

    let (error, _) = build_with_faults(vec![rule("/blobs/", Fault::FlipBitAt(50), None)]);
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_busy_registry_is_retried_a_limited_number_of_times() {
    let busy = |status, times| {
        let headers = vec!["Retry-After: 0".to_owned()];
        rule("/manifests/", Fault::Status(status, headers), times)
    };
    let (error, _) = build_with_faults(vec![busy(503, Some(1)), busy(429, Some(1))]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    let (error, requests) = build_with_faults(vec![busy(500, None)]);
    let error = error.unwrap();
    assert!(
        error.to_string().ends_with("returned status 500"),
        "{error}"
    );
    assert!(error.retryable());
    assert_eq!(requests.len(), 4, "{requests:?}");
}

#[test]
fn retry_after_may_be_a_date_and_too_long_a_delay_fails_at_once() {
    let busy = |retry_after: String, times| {
        let headers = vec![format!("Retry-After: {retry_after}")];
        rule("/manifests/", Fault::Status(429, headers), times)
    };
    // HTTP dates have a resolution of 1 s: now + 2 s is more than 1 s away.
    let soon = SystemTime::now() + Duration::from_secs(2);
    let (error, requests) = build_with_faults(vec![busy(httpdate::fmt_http_date(soon), Some(1))]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    assert!(requests[1].contains("/manifests/"), "{requests:?}");
    assert!(SystemTime::now() > soon - Duration::from_secs(1));

    let (error, requests) = build_with_faults(vec![busy("3600".into(), None)]);
    let error = error.unwrap();
    let expected = "returned status 429; retry after 3600 s";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(requests.len(), 1, "{requests:?}");
}

#[test]
fn a_permanent_error_is_not_retried() {
    for status in [400, 408, 409, 418] {
        let refused = Fault::Status(status, vec!["Retry-After: 0".to_owned()]);
        let (error, requests) = build_with_faults(vec![rule("/manifests/", refused, None)]);
        let text = error.unwrap().to_string();
        assert!(
            text.ends_with(&format!("returned status {status}")),
            "{text}"
        );
        assert_eq!(requests.len(), 1, "{requests:?}");
    }
}
