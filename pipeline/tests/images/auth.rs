//! Registry authentication: credential files, token servers, and credential
//! helpers, which are never run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use microagent_pipeline::{ErrorKind, Registries, RootfsOptions};
use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::Layout;
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{or_skip, program, tool};

use crate::scripted_server::{ScriptedServer, answer, redirect};
use crate::support::{self, TestDir, build, chain};

/// Builds in a child process with these variables and none of the caller's that
/// select credentials. Returns `built`, or the error's kind and chain.
pub fn build_with(variables: &[(&str, &Path)], reference: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "auth::build_in_child",
            "--ignored",
            "--nocapture",
        ])
        .env("MICROAGENT_TEST_REFERENCE", reference);
    for variable in [
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "DOCKER_CONFIG",
        "HOME",
    ] {
        command.env_remove(variable);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.lines().find_map(|line| line.split_once("result: "));
    result.unwrap_or_else(|| panic!("{stdout}")).1.to_owned()
}

/// The child process of [`build_with`]: builds the image and prints the result.
#[test]
#[ignore = "a part of other tests"]
fn build_in_child() {
    let reference = std::env::var("MICROAGENT_TEST_REFERENCE").unwrap();
    let registries = std::env::var_os("MICROAGENT_TEST_REGISTRIES")
        .map(|path| Registries::read(Path::new(&path)).unwrap());
    let dir = TestDir::new();
    let pipeline = (dir.pipeline()).with_registries(registries.unwrap_or_default());
    let result = match support::build_with(&pipeline, &reference, &RootfsOptions::default()) {
        Ok(_) => "built".to_owned(),
        Err(error) => format!("{} {}", error.kind().as_str(), chain(&error)),
    };
    println!("\nresult: {result}");
}

/// A registry with the busybox image as `app:1`.
fn registry(with_password: bool) -> Result<Registry, microagent_tests::Error> {
    let layout = Layout::busybox()?;
    let registry = match with_password {
        true => Registry::with_password()?,
        false => Registry::start()?,
    };
    registry.push(&layout.reference("latest"), "app:1")?;
    Ok(registry)
}

fn write(path: PathBuf, document: &serde_json::Value) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

fn auth_file(directory: &Path, registry: &str, (user, password): (&str, &str)) -> PathBuf {
    let entry = serde_json::json!({ "username": user, "password": password });
    let document = serde_json::json!({ "auths": { registry: entry } });
    write(directory.join("auth.json"), &document)
}

#[test]
fn the_password_is_read_from_the_file_that_skopeo_login_writes() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let error = build(&TestDir::new(), &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.to_string().ends_with("requires credentials"),
        "{error}"
    );
    assert!(error.remediation().unwrap().contains("REGISTRY_AUTH_FILE"));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("login.json");
    let (user, password) = CREDENTIALS;
    let path = file.display().to_string();
    #[rustfmt::skip]
    let login = ["login", "--tls-verify=false", "--authfile", &path, "-u", user, "-p", password,
        registry.address()];
    tool::run("skopeo", login).unwrap();
    let run = |file: &Path| build_with(&[("REGISTRY_AUTH_FILE", file)], &reference);
    assert_eq!(run(&file), "built");
    let wrong = auth_file(dir.path(), registry.address(), ("tester", "wrong"));
    let output = run(&wrong);
    let expected = format!("rejected the credentials from {}", wrong.display());
    assert!(
        output.starts_with("unauthorized") && output.ends_with(&expected),
        "{output}"
    );
    let output = run(&dir.path().join("none.json"));
    assert!(
        output.starts_with("usage") && output.contains("none.json"),
        "{output}"
    );
}

#[test]
fn without_a_configured_file_the_default_ones_are_read_in_order() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let dir = tempfile::tempdir().unwrap();
    let directory = |name: &str| dir.path().join(name);
    let entry = |(user, password): (&str, &str)| {
        let entry = serde_json::json!({ "username": user, "password": password });
        serde_json::json!({ "auths": { registry.address(): entry } })
    };
    let (right, wrong) = (entry(CREDENTIALS), entry(("tester", "wrong")));
    let other = serde_json::json!({ "auths": { "other.example": { "auth": "YTox" } } });
    write(directory("right/containers/auth.json"), &right);
    write(directory("other/containers/auth.json"), &other);
    write(directory("docker/config.json"), &right);
    write(directory("wrong/config.json"), &wrong);
    write(directory("home/.docker/config.json"), &right);
    write(
        directory("config-home/.config/containers/auth.json"),
        &right,
    );
    let nothing = directory("nothing");
    for (runtime, docker, home, expected) in [
        ("right", "wrong", "nothing", true),
        ("other", "docker", "nothing", true),
        ("nothing", "docker", "nothing", true),
        ("nothing", "wrong", "home", false),
        ("nothing", "nothing", "home", false),
        ("nothing", "", "home", true),
        ("nothing", "wrong", "config-home", true),
    ] {
        let docker_config = match docker {
            "" => PathBuf::new(),
            name => directory(name),
        };
        let variables = [
            ("XDG_RUNTIME_DIR", &*directory(runtime)),
            ("DOCKER_CONFIG", &docker_config),
            ("HOME", &directory(home)),
        ];
        let output = build_with(&variables, &reference);
        assert_eq!(
            output == "built",
            expected,
            "{runtime} {docker} {home}: {output}"
        );
    }
    assert!(!nothing.exists());
}

#[test]
fn a_credential_helper_is_named_and_never_run() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    let marker = dir.path().join("helper-was-run");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-touchy");
    let script = format!("#!/bin/sh\ntouch '{}'\n", marker.display());
    program::write(&helper, 0o755, script).unwrap();
    for document in [
        serde_json::json!({ "credHelpers": { registry.address(): "touchy" } }),
        serde_json::json!({ "credsStore": "touchy", "auths": { registry.address(): {} } }),
    ] {
        let file = write(dir.path().join("config.json"), &document);
        let output = build_with(&[("DOCKER_CONFIG", dir.path()), ("PATH", &bin)], &reference);
        let expected = format!(
            "unauthorized image {reference}: registry {} requires credentials; {} delegates them to the helper touchy, which is never run",
            registry.address(),
            file.display()
        );
        assert_eq!(output, expected);
        assert!(!marker.exists());
    }
    // A helper does not matter to a registry without authentication.
    let open = open_registry();
    let document = serde_json::json!({ "credsStore": "touchy" });
    write(dir.path().join("config.json"), &document);
    let reference = format!("{}/app:1", open.address());
    assert_eq!(
        build_with(&[("DOCKER_CONFIG", dir.path())], &reference),
        "built"
    );
}

fn open_registry() -> Registry {
    registry(false).unwrap()
}

/// A server that requires a token from its own `/token` and redirects requests
/// with a valid one to the real registry. `token` returns the response of the token
/// endpoint to a request body; `is_valid` decides which tokens are accepted.
fn token_protected(
    real: &Registry,
    challenge: &'static str,
    token: impl Fn(&str) -> String + Send + 'static,
    is_valid: impl Fn(&str) -> bool + Send + 'static,
) -> ScriptedServer {
    let real = real.address().to_owned();
    ScriptedServer::start(move |address, request| {
        if request.path.starts_with("/token") {
            return token(&request.body);
        }
        let given = request.authorization.as_deref();
        if given
            .and_then(|given| given.strip_prefix("Bearer "))
            .is_some_and(&is_valid)
        {
            return redirect(&real, &request.path);
        }
        let challenge = challenge.replace("ADDRESS", address);
        let lines: Vec<&str> = challenge.lines().collect();
        answer(401, &lines, "")
    })
}

#[test]
fn a_token_is_requested_with_password_and_account() {
    let registry = or_skip!(registry(false));
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token?from=registry\",service=\"s 1\",scope=\"repository:app:pull repository:base:pull\"",
        |_| answer(200, &[], r#"{"access_token":"the-token","expires_in":60}"#),
        |token| token == "the-token",
    );
    let dir = tempfile::tempdir().unwrap();
    let file = auth_file(dir.path(), &server.address, CREDENTIALS);
    let reference = format!("{}/app:1", server.address);
    assert_eq!(
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference),
        "built"
    );
    assert_eq!(server.requests()[0].authorization, None);
    let tokens = server.requests_to("/token");
    assert_eq!(tokens.len(), 1, "one token serves all requests: {tokens:?}");
    assert_eq!(
        tokens[0].path,
        "/token?from=registry&account=tester&service=s%201&scope=repository:app:pull&scope=repository:base:pull"
    );
    // printf 'tester:open sesame' | base64
    let basic = Some("Basic dGVzdGVyOm9wZW4gc2VzYW1l");
    assert_eq!(tokens[0].authorization.as_deref(), basic);

    // Without a password the token server decides; this one issues a token.
    build(&TestDir::new(), &reference).unwrap();
    let anonymous = server.requests_to("/token").pop().unwrap();
    assert_eq!(anonymous.authorization, None);
    assert!(!anonymous.path.contains("account="), "{anonymous:?}");
}

#[test]
fn a_pull_has_no_more_requests_than_it_needs() {
    let registry = or_skip!(registry(false));
    let proxy = or_skip!(FaultProxy::start(registry.address(), Vec::new()));
    build(&TestDir::new(), &format!("{}/app:1", proxy.address())).unwrap();
    let requests = proxy.requests();
    assert_eq!(
        requests.len(),
        3,
        "manifest, configuration, layer: {requests:?}"
    );
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\"",
        |_| answer(200, &[], r#"{"token":"the-token"}"#),
        |token| token == "the-token",
    );
    build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap();
    let requests = server.requests();
    assert_eq!(
        requests.len(),
        5,
        "a 401 and a token before them: {requests:?}"
    );
}

#[test]
fn a_registry_that_challenges_only_at_v2_is_asked_there() {
    let registry = or_skip!(registry(false));
    let dir = tempfile::tempdir().unwrap();
    for status in [401, 403, 404] {
        for scheme in ["Basic", "Bearer"] {
            let real = registry.address().to_owned();
            let server = ScriptedServer::start(move |address, request| {
                let given = request.authorization.as_deref().unwrap_or_default();
                // printf 'tester:open sesame' | base64
                let basic = "Basic dGVzdGVyOm9wZW4gc2VzYW1l";
                let expected = if scheme == "Basic" {
                    basic
                } else {
                    "Bearer the-token"
                };
                if request.path.starts_with("/token") && given == basic {
                    return answer(200, &[], r#"{"token":"the-token"}"#);
                }
                let challenge =
                    format!("wWw-AuThEnTiCaTe: {scheme} realm=\"http://{address}/token\"");
                match request.path.as_str() {
                    "/v2/" => answer(401, &[&challenge], ""),
                    _ if given == expected => redirect(&real, &request.path),
                    _ => answer(status, &[], ""),
                }
            });
            let file = auth_file(dir.path(), &server.address, CREDENTIALS);
            let reference = format!("{}/app:1", server.address);
            let built = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference);
            assert_eq!(built, "built", "{status} {scheme}");
            assert_eq!(
                server.requests_to("/v2/").len(),
                5,
                "{:?}",
                server.requests()
            );
            // Without credentials the answer to the request itself is reported.
            let error = build(&TestDir::new(), &reference).unwrap_err();
            let expected = match status {
                404 => "does not have this image",
                _ => "requires credentials",
            };
            assert!(
                error.to_string().ends_with(expected),
                "{status} {scheme}: {error}"
            );
        }
    }
}

#[test]
fn the_bearer_challenge_is_preferred_and_a_missing_scope_is_derived() {
    let registry = or_skip!(registry(false));
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Basic realm=\"all\"\nWWW-Authenticate: Negotiate, Bearer realm=\"http://ADDRESS/token\"",
        |_| answer(200, &[], r#"{"token":"the-token"}"#),
        |token| token == "the-token",
    );
    build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap();
    let tokens = server.requests_to("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?scope=repository:app:pull");
}

#[test]
fn an_identity_token_is_posted_to_the_token_server_and_never_sent_to_the_registry() {
    let registry = or_skip!(registry(false));
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\",service=\"reg\",scope=\"repository:app:pull\"",
        |body| match body.contains("refresh_token=it%2Fs+me")
            || body.contains("refresh_token=it%2Fs%20me")
        {
            true => answer(200, &[], r#"{"access_token":"the-token"}"#),
            false => answer(401, &[], ""),
        },
        |token| token == "the-token",
    );
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("{}/app:1", server.address);
    let with = |token: &str| {
        let entry = serde_json::json!({ "auth": "MDA6", "identitytoken": token });
        let document = serde_json::json!({ "auths": { server.address.as_str(): entry } });
        let file = write(dir.path().join("auth.json"), &document);
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference)
    };
    assert_eq!(with("it/s me"), "built");
    let tokens = server.requests_to("/token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(tokens[0].method, "POST");
    assert_eq!(tokens[0].authorization, None);
    for field in [
        "grant_type=refresh_token",
        "client_id=microagent",
        "service=reg",
        "scope=repository",
    ] {
        assert!(tokens[0].body.contains(field), "{tokens:?}");
    }
    let output = with("another");
    assert!(
        output.contains("rejected the credentials from "),
        "{output}"
    );
    let to_registry = server.requests_to("/v2/");
    let only_tokens = |given: &Option<String>| {
        given
            .as_deref()
            .is_none_or(|given| given == "Bearer the-token")
    };
    assert!(
        to_registry
            .iter()
            .all(|request| only_tokens(&request.authorization))
    );
}

#[test]
fn an_expired_token_is_replaced() {
    let registry = or_skip!(registry(false));
    let given = AtomicUsize::new(0);
    let uses = AtomicUsize::new(0);
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\"",
        move |_| {
            let number = given.fetch_add(1, Ordering::SeqCst);
            answer(200, &[], &format!(r#"{{"token":"token-{number}"}}"#))
        },
        // Each token is valid for one request.
        move |token| {
            let number: Option<usize> = token.strip_prefix("token-").and_then(|n| n.parse().ok());
            let is_valid = number == Some(uses.load(Ordering::SeqCst));
            uses.fetch_add(usize::from(is_valid), Ordering::SeqCst);
            is_valid
        },
    );
    build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap();
    // Manifest, configuration and layer.
    assert_eq!(server.requests_to("/token").len(), 3);
}

#[test]
fn a_token_whose_scope_does_not_suffice_is_replaced() {
    let registry = or_skip!(registry(false));
    let real = registry.address().to_owned();
    let server = ScriptedServer::start(move |address, request| {
        if let Some((_, query)) = request.path.split_once("/token?") {
            let is_for_blobs = query.contains("scope=repository:app:blobs");
            let token = if is_for_blobs { "blobs" } else { "manifests" };
            return answer(200, &[], &format!(r#"{{"token":"{token}"}}"#));
        }
        let part = request.path.split('/').nth(3).unwrap();
        if request.authorization == Some(format!("Bearer {part}")) {
            return redirect(&real, &request.path);
        }
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://{address}/token\",error=\"insufficient_scope\",scope=\"repository:app:{part}\""
        );
        answer(401, &[&challenge], "")
    });
    build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap();
    assert_eq!(server.requests_to("/token").len(), 2);
}

#[test]
fn a_refusal_or_an_invalid_response_of_the_token_server_is_reported() {
    let registry = or_skip!(registry(false));
    for (status, body, expected) in [
        (403, "{}", " requires credentials"),
        (200, "<html>", " does not implement the registry protocol"),
        (
            200,
            "{\"token\":\"a\\u0000\"}",
            " does not implement the registry protocol",
        ),
        (404, "", " returned status 404"),
        (
            200,
            "{\"token\":\"not good\"}",
            " does not implement the registry protocol",
        ),
        (200, "{\"token\":\"not-good\"}", " requires credentials"),
    ] {
        let server = token_protected(
            &registry,
            "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\"",
            move |_| answer(status, &[], body),
            |_| false,
        );
        let error = build(&TestDir::new(), &format!("{}/app:1", server.address)).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(server.requests_to("/token").len() <= 2);
    }
}

#[test]
fn credentials_are_not_sent_to_a_remote_token_server_over_plain_http() {
    let registry = or_skip!(registry(false));
    let server = token_protected(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://token.example/token\"",
        |_| answer(500, &[], ""),
        |_| false,
    );
    let dir = tempfile::tempdir().unwrap();
    let file = auth_file(dir.path(), &server.address, CREDENTIALS);
    let reference = format!("{}/app:1", server.address);
    let output = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference);
    let expected = format!(
        "unreachable image {reference}: registry {} (at token.example) requires plain HTTP, which is not allowed",
        server.address
    );
    assert_eq!(output, expected);
}
