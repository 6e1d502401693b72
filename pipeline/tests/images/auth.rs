//! Who we say we are: files of credentials, token servers, and helpers that
//! are never run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use microagent_pipeline::{ErrorKind, Registries, RootfsOptions};
use microagent_tests::image::Layout;
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{or_skip, program, tool};

use crate::front::{Front, answer, redirect};
use crate::support::{self, Place, build, chain};

/// Builds in a process of its own, with these variables and none of a user's.
pub fn build_with(variables: &[(&str, &Path)], reference: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "auth::part_build", "--ignored", "--nocapture"])
        .env("MICROAGENT_TEST_REFERENCE", reference);
    for usual in [
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "DOCKER_CONFIG",
        "HOME",
    ] {
        command.env_remove(usual);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result = said.lines().find_map(|line| line.split_once("result: "));
    result.unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

/// Builds the image of another process's choice and prints the outcome.
#[test]
#[ignore = "a part of other tests"]
fn part_build() {
    let reference = std::env::var("MICROAGENT_TEST_REFERENCE").unwrap();
    let registries = std::env::var_os("MICROAGENT_TEST_REGISTRIES")
        .map(|path| Registries::read(Path::new(&path)).unwrap());
    let place = Place::new();
    let pipeline = (place.pipeline()).with_registries(registries.unwrap_or_default());
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
fn a_password_is_taken_from_the_file_that_skopeo_login_writes() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let error = build(&Place::new(), &reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().ends_with("wants credentials"), "{error}");
    assert!(error.remediation().unwrap().contains("REGISTRY_AUTH_FILE"));

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("login.json");
    let (user, password) = CREDENTIALS;
    let path = file.display().to_string();
    #[rustfmt::skip]
    let login = ["login", "--tls-verify=false", "--authfile", &path, "-u", user, "-p", password,
        registry.address()];
    tool::run("skopeo", login).unwrap();
    let run = |file: &Path| build_with(&[("REGISTRY_AUTH_FILE", file)], &reference);
    assert_eq!(run(&file), "built");
    let wrong = auth_file(place.path(), registry.address(), ("tester", "wrong"));
    let said = run(&wrong);
    let expected = format!("refused the credentials of {}", wrong.display());
    assert!(
        said.starts_with("unauthorized") && said.ends_with(&expected),
        "{said}"
    );
    let said = run(&place.path().join("none.json"));
    assert!(
        said.starts_with("usage") && said.contains("none.json"),
        "{said}"
    );
}

#[test]
fn without_a_named_file_the_usual_ones_are_read_in_order() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let place = tempfile::tempdir().unwrap();
    let directory = |name: &str| place.path().join(name);
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
    let nothing = directory("nothing");
    for (runtime, docker, home, expected) in [
        ("right", "wrong", "nothing", true),
        ("other", "docker", "nothing", true),
        ("nothing", "docker", "nothing", true),
        ("nothing", "wrong", "home", false),
        ("nothing", "nothing", "home", false),
        ("nothing", "", "home", true),
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
        let said = build_with(&variables, &reference);
        assert_eq!(
            said == "built",
            expected,
            "{runtime} {docker} {home}: {said}"
        );
    }
    assert!(!nothing.exists());
}

#[test]
fn a_helper_is_named_and_never_run() {
    let registry = or_skip!(registry(true));
    let reference = format!("{}/app:1", registry.address());
    let place = tempfile::tempdir().unwrap();
    let bin = place.path().join("bin");
    let marker = place.path().join("it was run");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-touchy");
    let script = format!("#!/bin/sh\ntouch '{}'\n", marker.display());
    program::write(&helper, 0o755, script).unwrap();
    for document in [
        serde_json::json!({ "credHelpers": { registry.address(): "touchy" } }),
        serde_json::json!({ "credsStore": "touchy", "auths": { registry.address(): {} } }),
    ] {
        let file = write(place.path().join("config.json"), &document);
        let said = build_with(
            &[("DOCKER_CONFIG", place.path()), ("PATH", &bin)],
            &reference,
        );
        let expected = format!(
            "unauthorized image {reference}: registry {} wants credentials, and {} leaves them to the helper touchy, which is never run",
            registry.address(),
            file.display()
        );
        assert_eq!(said, expected);
        assert!(!marker.exists());
    }
    // Where nobody asks who we are, it does not matter.
    let open = registry_for_all();
    let document = serde_json::json!({ "credsStore": "touchy" });
    write(place.path().join("config.json"), &document);
    let reference = format!("{}/app:1", open.address());
    assert_eq!(
        build_with(&[("DOCKER_CONFIG", place.path())], &reference),
        "built"
    );
}

fn registry_for_all() -> Registry {
    registry(false).unwrap()
}

/// A registry that wants a token of `/token` on the same address, and lets who
/// has a good one through to the real one. `token` makes the answer of the
/// token server; `is_good` says which tokens are.
fn behind_tokens(
    real: &Registry,
    challenge: &'static str,
    token: impl Fn(&str) -> String + Send + 'static,
    is_good: impl Fn(&str) -> bool + Send + 'static,
) -> Front {
    let real = real.address().to_owned();
    Front::start(move |address, asked| {
        if asked.path.starts_with("/token") {
            return token(&asked.body);
        }
        let given = asked.authorization.as_deref();
        if given
            .and_then(|given| given.strip_prefix("Bearer "))
            .is_some_and(&is_good)
        {
            return redirect(&real, &asked.path);
        }
        let challenge = challenge.replace("ADDRESS", address);
        let lines: Vec<&str> = challenge.lines().collect();
        answer(401, &lines, "")
    })
}

#[test]
fn a_token_is_fetched_with_the_password_and_the_account() {
    let registry = or_skip!(registry(false));
    let front = behind_tokens(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token?from=registry\",service=\"s 1\",scope=\"repository:app:pull repository:base:pull\"",
        |_| answer(200, &[], r#"{"access_token":"the-token","expires_in":60}"#),
        |token| token == "the-token",
    );
    let place = tempfile::tempdir().unwrap();
    let file = auth_file(place.path(), &front.address, CREDENTIALS);
    let reference = format!("{}/app:1", front.address);
    assert_eq!(
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference),
        "built"
    );
    assert_eq!(front.seen()[0].authorization, None);
    let tokens = front.seen_at("/token");
    assert_eq!(tokens.len(), 1, "one token serves all requests: {tokens:?}");
    assert_eq!(
        tokens[0].path,
        "/token?from=registry&account=tester&service=s%201&scope=repository:app:pull&scope=repository:base:pull"
    );
    // printf 'tester:open sesame' | base64
    let basic = Some("Basic dGVzdGVyOm9wZW4gc2VzYW1l");
    assert_eq!(tokens[0].authorization.as_deref(), basic);

    // Without a password the token server decides; here it gives one to anybody.
    build(&Place::new(), &reference).unwrap();
    let anonymous = front.seen_at("/token").pop().unwrap();
    assert_eq!(anonymous.authorization, None);
    assert!(!anonymous.path.contains("account="), "{anonymous:?}");
}

#[test]
fn of_several_challenges_the_token_is_taken_and_a_scope_made_up_where_there_is_none() {
    let registry = or_skip!(registry(false));
    let front = behind_tokens(
        &registry,
        "WWW-Authenticate: Basic realm=\"all\"\nWWW-Authenticate: Negotiate, Bearer realm=\"http://ADDRESS/token\"",
        |_| answer(200, &[], r#"{"token":"the-token"}"#),
        |token| token == "the-token",
    );
    build(&Place::new(), &format!("{}/app:1", front.address)).unwrap();
    let tokens = front.seen_at("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?scope=repository:app:pull");
}

#[test]
fn an_identity_token_is_posted_and_never_sent_to_the_registry() {
    let registry = or_skip!(registry(false));
    let front = behind_tokens(
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
    let place = tempfile::tempdir().unwrap();
    let reference = format!("{}/app:1", front.address);
    let with = |token: &str| {
        let entry = serde_json::json!({ "auth": "MDA6", "identitytoken": token });
        let document = serde_json::json!({ "auths": { front.address.as_str(): entry } });
        let file = write(place.path().join("auth.json"), &document);
        build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference)
    };
    assert_eq!(with("it/s me"), "built");
    let tokens = front.seen_at("/token");
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
    let said = with("another");
    assert!(said.contains("refused the credentials of "), "{said}");
    let registry_saw = front.seen_at("/v2/");
    let only_tokens = |given: &Option<String>| {
        given
            .as_deref()
            .is_none_or(|given| given == "Bearer the-token")
    };
    assert!(
        registry_saw
            .iter()
            .all(|asked| only_tokens(&asked.authorization))
    );
}

#[test]
fn a_token_that_has_expired_is_replaced() {
    let registry = or_skip!(registry(false));
    let given = AtomicUsize::new(0);
    let uses = AtomicUsize::new(0);
    let front = behind_tokens(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\"",
        move |_| {
            let number = given.fetch_add(1, Ordering::SeqCst);
            answer(200, &[], &format!(r#"{{"token":"token-{number}"}}"#))
        },
        // Each is good for one request.
        move |token| {
            let number: Option<usize> = token.strip_prefix("token-").and_then(|n| n.parse().ok());
            let is_good = number == Some(uses.load(Ordering::SeqCst));
            uses.fetch_add(usize::from(is_good), Ordering::SeqCst);
            is_good
        },
    );
    build(&Place::new(), &format!("{}/app:1", front.address)).unwrap();
    // Manifest, configuration and layer.
    assert_eq!(front.seen_at("/token").len(), 3);
}

#[test]
fn a_token_server_that_refuses_or_answers_nonsense_ends_in_one_line() {
    let registry = or_skip!(registry(false));
    for (status, body, expected) in [
        (403, "{}", " wants credentials"),
        (200, "<html>", " does not speak the registry protocol"),
        (
            200,
            "{\"token\":\"a\\u0000\"}",
            " does not speak the registry protocol",
        ),
        (404, "", " answered 404"),
        (
            200,
            "{\"token\":\"not good\"}",
            " does not speak the registry protocol",
        ),
        (200, "{\"token\":\"not-good\"}", " wants credentials"),
    ] {
        let front = behind_tokens(
            &registry,
            "WWW-Authenticate: Bearer realm=\"http://ADDRESS/token\"",
            move |_| answer(status, &[], body),
            |_| false,
        );
        let error = build(&Place::new(), &format!("{}/app:1", front.address)).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(front.seen_at("/token").len() <= 2);
    }
}

#[test]
fn credentials_go_to_no_token_server_over_plain_http_elsewhere() {
    let registry = or_skip!(registry(false));
    let front = behind_tokens(
        &registry,
        "WWW-Authenticate: Bearer realm=\"http://token.example/token\"",
        |_| answer(500, &[], ""),
        |_| false,
    );
    let place = tempfile::tempdir().unwrap();
    let file = auth_file(place.path(), &front.address, CREDENTIALS);
    let reference = format!("{}/app:1", front.address);
    let said = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference);
    let expected = format!(
        "unreachable image {reference}: registry {} (at token.example) would have to be asked over plain HTTP",
        front.address
    );
    assert_eq!(said, expected);
}
