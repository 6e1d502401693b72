//! The real registry, with and without a password, behind a token server, and
//! behind a proxy that spoils its answers.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use microagent_pipeline::{Error, ErrorKind};
use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::or_skip;
use microagent_tests::registry::{CREDENTIALS, Registry};

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
    let text = error.as_ref().map(chain).unwrap();
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
    assert!(
        text.contains("came with wrong content: its digest is sha256:"),
        "{text}"
    );

    let (error, _) = spoilt(vec![rule("/manifests/", Fault::FlipBitAt(5), None)]);
    let text = error.as_ref().map(chain).unwrap();
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

/// Runs a test of this binary in a process of its own, with `$REGISTRY_AUTH_FILE`.
fn rerun(test: &str, auth_file: &Path, reference: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("REGISTRY_AUTH_FILE", auth_file)
        .env("MICROAGENT_TEST_REFERENCE", reference)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result = said.lines().find_map(|line| line.split_once("result: "));
    result.unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

/// Builds the image of another process's choice and prints the outcome.
#[test]
#[ignore = "a part of other tests"]
fn build_with_credentials() {
    let reference = std::env::var("MICROAGENT_TEST_REFERENCE").unwrap();
    let result = match build(&Place::new(), &reference) {
        Ok(_) => "built".to_owned(),
        Err(error) => format!("{} {}", error.kind().as_str(), chain(&error)),
    };
    println!("\nresult: {result}");
}

fn auth_file(
    directory: &Path,
    registry: &str,
    (user, password): (&str, &str),
) -> std::path::PathBuf {
    use base64::Engine;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let path = directory.join("auth.json");
    let document = serde_json::json!({ "auths": { registry: { "auth": auth } } });
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

#[test]
fn a_password_is_taken_from_the_auth_file() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::with_password());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let reference = format!("{}/app:1", registry.address());
    let error = build(&Place::new(), &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().ends_with("wants credentials"), "{error}");
    assert!(error.remediation().unwrap().contains("REGISTRY_AUTH_FILE"));

    let place = tempfile::tempdir().unwrap();
    let run = |file: &Path| rerun("registry::build_with_credentials", file, &reference);
    let right = auth_file(place.path(), registry.address(), CREDENTIALS);
    assert_eq!(run(&right), "built");
    let wrong = auth_file(place.path(), registry.address(), ("tester", "wrong"));
    let said = run(&wrong);
    assert!(
        said.starts_with("unauthorized") && said.contains("refused the credentials"),
        "{said}"
    );
    let said = run(&place.path().join("none.json"));
    assert!(
        said.starts_with("usage") && said.contains("none.json"),
        "{said}"
    );
}

/// Answers like a registry that wants a token of its own server and keeps its
/// content elsewhere: what it lets through is redirected to `next`.
struct Front {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Front {
    fn start(answer: impl Fn(&Front, &str, Option<&str>) -> String + Send + 'static) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = Front {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
        };
        let serving = Front {
            address: front.address.clone(),
            seen: Arc::clone(&front.seen),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(&serving, stream, &answer);
            }
        });
        front
    }
}

fn serve(front: &Front, stream: TcpStream, answer: &dyn Fn(&Front, &str, Option<&str>) -> String) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let authorization = headers.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    front
        .seen
        .lock()
        .unwrap()
        .push(format!("{path} {authorization:?}"));
    let answer = answer(front, &path, authorization);
    let _ = (&stream).write_all(answer.as_bytes());
}

fn redirect(to: &str, path: &str) -> String {
    format!(
        "HTTP/1.1 307 Moved\r\nLocation: http://{to}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

#[test]
fn a_token_is_fetched_with_the_password_and_no_redirect_sees_either() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let real = registry.address().to_owned();
    let storage = Front::start(move |_, path, _| redirect(&real, path));
    let behind = storage.address.clone();
    let front = Front::start(move |front, path, authorization| {
        if path.starts_with("/token?") {
            let body = r#"{"token":"the-token"}"#;
            let length = body.len();
            return format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        match authorization {
            Some("Bearer the-token") => redirect(&behind, path),
            _ => format!(
                "HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s 1\",scope=\"repository:app:pull\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                front.address
            ),
        }
    });
    let place = tempfile::tempdir().unwrap();
    let file = auth_file(place.path(), &front.address, CREDENTIALS);
    let reference = format!("{}/app:1", front.address);
    assert_eq!(
        rerun("registry::build_with_credentials", &file, &reference),
        "built"
    );
    let seen = front.seen.lock().unwrap().clone();
    assert!(seen[0].ends_with("None"), "{seen:?}");
    let tokens: Vec<&String> = seen
        .iter()
        .filter(|line| line.starts_with("/token?"))
        .collect();
    assert_eq!(tokens.len(), 1, "one token serves all requests: {seen:?}");
    assert!(
        tokens[0].contains("service=s%201") && tokens[0].contains("Some(\"Basic "),
        "{tokens:?}"
    );
    let stored = storage.seen.lock().unwrap().clone();
    assert!(
        stored.len() >= 3 && stored.iter().all(|line| line.ends_with("None")),
        "{stored:?}"
    );

    // Without a password the token server decides; here it gives one to anybody.
    build(&Place::new(), &reference).unwrap();
}
