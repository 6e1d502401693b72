//! Registries that redirect to other servers, and what those servers receive.

use microagent_cas::Digest;
use microagent_pipeline::{ErrorKind, Reference, Upstream};
use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::file_server::FileServer;
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::{CREDENTIALS, Registry, Setup};
use microagent_tests::tool;

use crate::auth::build_with;
use crate::scripted_server::{ScriptedServer, answer};
use crate::support::{TestDir, build};

#[test]
fn credentials_are_not_sent_to_the_storage_behind_a_registry() {
    let layout = or_skip!(Layout::busybox());
    let files = or_skip!(FileServer::bind());
    let storage = or_skip!(FaultProxy::start(files.address(), Vec::new()));
    let registry = or_skip!(Registry::with_setup(&Setup {
        password: true,
        blob_redirect: Some(&format!("http://{}", storage.address())),
        ..Setup::default()
    }));
    let _files = or_skip!(files.serve(&registry.storage()));
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    // Ignore the requests of the push.
    let before = storage.requests().len();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let (user, password) = CREDENTIALS;
    let entry = serde_json::json!({ "username": user, "password": password });
    let document = serde_json::json!({ "auths": { proxy.address(): entry } });
    std::fs::write(&file, document.to_string()).unwrap();
    let reference = format!("{}/app:1", proxy.address());
    assert_eq!(
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference),
        "built"
    );

    let is_authorized = |head: &String| head.to_ascii_lowercase().contains("\nauthorization:");
    let to_registry = proxy.heads();
    assert!(
        to_registry
            .iter()
            .filter(|head| is_authorized(head))
            .count()
            >= 3,
        "{to_registry:?}"
    );
    let to_storage = storage.heads().split_off(before);
    // Configuration and layer.
    assert_eq!(to_storage.len(), 2, "{to_storage:?}");
    assert!(!to_storage.iter().any(is_authorized), "{to_storage:?}");
}

/// A server that redirects every request. `to` returns the target for the server's
/// address and the number of requests before this one.
fn redirecting(to: impl Fn(&str, usize) -> String + Send + 'static) -> ScriptedServer {
    let count = std::sync::atomic::AtomicUsize::new(0);
    ScriptedServer::start(move |address, _| {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        answer(307, &[&format!("Location: {}", to(address, count))], "")
    })
}

#[test]
fn redirect_loops_are_an_error() {
    let looping = redirecting(|_, _| "/v2/app/manifests/1".into());
    let error = build(&TestDir::new(), &format!("{}/app:1", looping.address)).unwrap_err();
    let expected = format!("registry {} redirects in a loop", looping.address);
    assert!(error.to_string().ends_with(&expected), "{error}");
    assert!(!error.retryable());

    let endless = redirecting(|address, count| format!("http://{address}/{count}"));
    let error = build(&TestDir::new(), &format!("{}/app:1", endless.address)).unwrap_err();
    assert!(
        error.to_string().ends_with(" redirects more than 10 times"),
        "{error}"
    );
    assert_eq!(endless.requests().len(), 11);
}

#[test]
fn a_redirect_to_plain_http_on_another_host_is_refused_before_anything_is_sent() {
    for target in [
        "http://10.255.255.1/x",
        "http://storage.example/x",
        "//storage.example/x",
        "http://user:secret@storage.example/x",
    ] {
        let server = redirecting(move |_, _| target.into());
        let error = build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap_err();
        let host = target.split('/').nth(2).unwrap();
        let host = host.rsplit('@').next().unwrap();
        let expected = format!("(at {host}) requires plain HTTP, which is not allowed");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
    let server = redirecting(|_, _| "ftp://storage.example/x".into());
    let error = build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not implement the registry protocol"),
        "{error}"
    );
}

#[test]
fn the_server_of_an_upload_cannot_request_credentials() {
    let attacker = ScriptedServer::start(|_, _| answer(200, &[], r#"{"token":"t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\"", attacker.address);
    let storage = ScriptedServer::start(move |_, _| {
        answer(401, &[&format!("WWW-Authenticate: {realm}")], "")
    });
    let location = format!("Location: http://{}/upload", storage.address);
    let server = ScriptedServer::start(move |_, request| match &*request.method {
        "POST" => answer(202, &[&location], ""),
        _ => answer(404, &[], ""),
    });
    let dir = TestDir::new();
    let blob = dir.path("blob");
    std::fs::write(&blob, "blob").unwrap();
    let Ok(Reference::Registry(reference)) = format!("{}/app:1", server.address).parse() else {
        panic!("not a reference");
    };
    let image = Upstream {
        blobs: &[(Digest::of(b"blob"), blob)],
        manifest: b"{}",
    };
    dir.pipeline().push(&reference, &image).unwrap_err();
    assert_eq!(attacker.requests().len(), 0);
    let uploads = storage.requests();
    assert_eq!(uploads.len(), 1);
    assert_eq!(
        (&*uploads[0].method, &uploads[0].authorization),
        ("PUT", &None)
    );
}

#[test]
fn a_redirect_target_cannot_request_credentials() {
    let attacker = ScriptedServer::start(|_, _| answer(200, &[], r#"{"token":"t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\"", attacker.address);
    let storage = ScriptedServer::start(move |_, _| {
        answer(401, &[&format!("WWW-Authenticate: {realm}")], "")
    });
    let target = storage.address.clone();
    let server = redirecting(move |_, _| format!("http://{target}/blob"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let document = serde_json::json!({ "auths": { server.address.as_str(): { "auth": "YTpi" } } });
    std::fs::write(&file, document.to_string()).unwrap();
    let reference = format!("{}/app:1", server.address);
    let output = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference);
    let expected = format!("(at {}) returned status 401", storage.address);
    assert!(output.ends_with(&expected), "{output}");
    assert_eq!(storage.requests()[0].authorization, None);
    assert!(attacker.requests().is_empty());
}

#[test]
fn an_error_from_the_storage_names_its_address() {
    let layout = or_skip!(Layout::busybox());
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let registry = or_skip!(Registry::with_setup(&Setup {
        blob_redirect: Some(&format!("http://{gone}")),
        ..Setup::default()
    }));
    or_skip!(tool::find("skopeo"));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let error = build(&TestDir::new(), &format!("{}/app:1", registry.address())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        error.to_string(),
        format!(
            "image {0}/app:1: registry {0} (at {gone}) refused the connection",
            registry.address()
        )
    );
}
