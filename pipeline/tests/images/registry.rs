//! The real registry, and behind a proxy that spoils its answers.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use microagent_pipeline::{Error, ErrorKind};
use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::Registry;

use crate::support::{self, Place, build, chain};

/// A registry with the busybox image and a layer of 4 MiB that no compressor
/// makes small, as `app:1`.
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

/// The error of building through a proxy with these rules, and that it left nothing.
#[track_caller]
fn spoilt(rules: Vec<Rule>) -> (Option<Error>, Vec<String>) {
    let (registry, _layout) = registry().unwrap();
    let proxy = FaultProxy::start(registry.address(), rules).unwrap();
    let place = Place::new();
    let result = build(&place, &format!("{}/app:1", proxy.address()));
    let left = std::fs::read_dir(place.store().join("tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    (result.err(), proxy.requests())
}

#[test]
fn what_the_registry_does_not_have_is_named() {
    let (registry, _layout) = or_skip!(registry());
    let place = Place::new();
    for (name, expected) in [
        ("none:1", "does not have this image"),
        ("app:none", "does not have this tag or digest"),
    ] {
        let reference = format!("{}/{name}", registry.address());
        let error = build(&place, &reference).unwrap_err();
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
fn a_registry_that_cannot_be_reached_is_named_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let place = Place::new();
    let error = build(&place, &format!("{free}/app:1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image {free}/app:1: registry {free} refused the connection")
    );
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.retryable());

    let error = build(&place, "registry.invalid/app:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        error.to_string(),
        "image registry.invalid/app:1: registry registry.invalid is unknown: its name does not resolve"
    );
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let (error, requests) = spoilt(vec![rule("/blobs/", Fault::CutAfter(2 << 20), None)]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    // The large layer came in three pieces, each asked for once.
    let blobs = requests
        .iter()
        .filter(|line| line.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 3 + 2, "{requests:?}");
}

#[test]
fn a_layer_that_is_always_cut_short_is_refused() {
    let (error, _) = spoilt(vec![rule("/blobs/", Fault::CutAfter(5000), None)]);
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let text = chain(&error);
    assert!(text.contains("was cut short: 20000 of"), "{text}");
}

#[test]
fn wrong_bytes_are_refused_in_every_document() {
    let (error, _) = spoilt(vec![rule("/blobs/", Fault::FlipBitAt(100_000), None)]);
    let text = error.as_ref().map(|error| chain(error)).unwrap();
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
    assert!(
        text.contains("came with wrong content: its digest is sha256:"),
        "{text}"
    );

    let (error, _) = spoilt(vec![rule("/manifests/", Fault::FlipBitAt(5), None)]);
    let text = error.as_ref().map(|error| chain(error)).unwrap();
    assert!(text.starts_with("the manifest of 127.0.0.1:"), "{text}");
    assert!(text.contains("came with wrong content"), "{text}");

    let (error, _) = spoilt(vec![rule("/blobs/", Fault::FlipBitAt(50), None)]);
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_registry_that_is_busy_is_asked_again_and_not_for_ever() {
    let busy = |status, times| {
        let headers = vec!["Retry-After: 0".to_owned()];
        rule("/manifests/", Fault::Status(status, headers), times)
    };
    let (error, _) = spoilt(vec![busy(503, Some(1)), busy(429, Some(1))]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    let (error, requests) = spoilt(vec![busy(500, None)]);
    let error = error.unwrap();
    assert!(error.to_string().ends_with("answered 500"), "{error}");
    assert!(error.retryable());
    assert_eq!(requests.len(), 4, "{requests:?}");
}

#[test]
fn retry_after_is_honoured_as_a_date_and_too_long_a_wait_is_not_begun() {
    let busy = |retry_after: String, times| {
        let headers = vec![format!("Retry-After: {retry_after}")];
        rule("/manifests/", Fault::Status(429, headers), times)
    };
    // In a date, a second has no parts: 2 from now is more than 1.
    let soon = SystemTime::now() + Duration::from_secs(2);
    let (error, requests) = spoilt(vec![busy(httpdate::fmt_http_date(soon), Some(1))]);
    assert!(error.is_none(), "{}", chain(&error.unwrap()));
    assert!(requests[1].contains("/manifests/"), "{requests:?}");
    assert!(SystemTime::now() > soon - Duration::from_secs(1));

    let (error, requests) = spoilt(vec![busy("3600".into(), None)]);
    let error = error.unwrap();
    let expected = "answered 429 and wants to be left alone for 3600 s";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(requests.len(), 1, "{requests:?}");
}

#[test]
fn a_definite_refusal_is_not_asked_again() {
    for status in [400, 408, 409, 418] {
        let refused = Fault::Status(status, vec!["Retry-After: 0".to_owned()]);
        let (error, requests) = spoilt(vec![rule("/manifests/", refused, None)]);
        let text = error.unwrap().to_string();
        assert!(text.ends_with(&format!("answered {status}")), "{text}");
        assert_eq!(requests.len(), 1, "{requests:?}");
    }
}
