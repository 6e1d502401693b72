//! Registries that keep their blobs elsewhere, and what elsewhere gets to see.

use microagent_pipeline::ErrorKind;
use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::file_server::FileServer;
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::{CREDENTIALS, Registry, Setup};
use microagent_tests::tool;

use crate::auth::build_with;
use crate::front::{Front, answer};
use crate::support::{Place, build};

#[test]
fn the_storage_behind_a_registry_never_sees_who_we_are() {
    let layout = or_skip!(Layout::busybox());
    let files = or_skip!(FileServer::bind());
    let storage = or_skip!(FaultProxy::start(files.address(), Vec::new()));
    let registry = or_skip!(Registry::like(&Setup {
        password: true,
        blobs_at: Some(&format!("http://{}", storage.address())),
        ..Setup::default()
    }));
    let _files = or_skip!(files.serve(&registry.storage()));
    let front = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    // What the push itself fetched.
    let before = storage.requests().len();

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("auth.json");
    let (user, password) = CREDENTIALS;
    let entry = serde_json::json!({ "username": user, "password": password });
    let document = serde_json::json!({ "auths": { front.address(): entry } });
    std::fs::write(&file, document.to_string()).unwrap();
    let reference = format!("{}/app:1", front.address());
    assert_eq!(
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference),
        "built"
    );

    let says_who = |head: &String| head.to_ascii_lowercase().contains("\nauthorization:");
    let told = front.heads();
    assert!(
        told.iter().filter(|head| says_who(head)).count() >= 3,
        "{told:?}"
    );
    let stored = storage.heads().split_off(before);
    // Configuration and layer.
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert!(!stored.iter().any(says_who), "{stored:?}");
}

/// A server that sends everything on to what `to` makes of its own address and
/// how often it was asked.
fn sends_on(to: impl Fn(&str, usize) -> String + Send + 'static) -> Front {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Front::start(move |address, _| {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        answer(307, &[&format!("Location: {}", to(address, count))], "")
    })
}

#[test]
fn redirects_without_end_are_an_error() {
    let circle = sends_on(|_, _| "/v2/app/manifests/1".into());
    let error = build(&Place::new(), &format!("{}/app:1", circle.address)).unwrap_err();
    let expected = format!("registry {} redirects in a circle", circle.address);
    assert!(error.to_string().ends_with(&expected), "{error}");
    assert!(!error.retryable());

    let endless = sends_on(|address, count| format!("http://{address}/{count}"));
    let error = build(&Place::new(), &format!("{}/app:1", endless.address)).unwrap_err();
    assert!(
        error.to_string().ends_with(" redirects more than 5 times"),
        "{error}"
    );
    assert_eq!(endless.seen().len(), 6);
}

#[test]
fn plain_http_to_another_machine_is_refused_before_anything_is_sent() {
    for target in [
        "http://10.255.255.1/x",
        "http://storage.example/x",
        "//storage.example/x",
    ] {
        let front = sends_on(move |_, _| target.into());
        let error = build(&Place::new(), &format!("{}/app:1", front.address)).unwrap_err();
        let host = target.split('/').nth(2).unwrap();
        let expected = format!("(at {host}) would have to be asked over plain HTTP");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
    let front = sends_on(|_, _| "ftp://storage.example/x".into());
    let error = build(&Place::new(), &format!("{}/app:1", front.address)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not speak the registry protocol"),
        "{error}"
    );
}

#[test]
fn what_a_registry_redirects_to_cannot_ask_who_we_are() {
    let thief = Front::start(|_, _| answer(200, &[], r#"{"token":"t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\"", thief.address);
    let storage =
        Front::start(move |_, _| answer(401, &[&format!("WWW-Authenticate: {realm}")], ""));
    let target = storage.address.clone();
    let front = sends_on(move |_, _| format!("http://{target}/blob"));
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("auth.json");
    let document = serde_json::json!({ "auths": { front.address.as_str(): { "auth": "YTpi" } } });
    std::fs::write(&file, document.to_string()).unwrap();
    let reference = format!("{}/app:1", front.address);
    let said = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference);
    let expected = format!("(at {}) answered 401", storage.address);
    assert!(said.ends_with(&expected), "{said}");
    assert_eq!(storage.seen()[0].authorization, None);
    assert!(thief.seen().is_empty());
}

#[test]
fn an_error_of_the_storage_names_it() {
    let layout = or_skip!(Layout::busybox());
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let registry = or_skip!(Registry::like(&Setup {
        blobs_at: Some(&format!("http://{gone}")),
        ..Setup::default()
    }));
    or_skip!(tool::find("skopeo"));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let error = build(&Place::new(), &format!("{}/app:1", registry.address())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        error.to_string(),
        format!(
            "image {0}/app:1: registry {0} (at {gone}) refused the connection",
            registry.address()
        )
    );
}
