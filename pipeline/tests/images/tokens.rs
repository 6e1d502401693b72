//! Tokens verified by a real registry: signature, audience, scope and validity
//! (token authentication of `distribution`, as used by Docker Hub and GHCR).

use std::path::Path;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use microagent_pipeline::ErrorKind;
use microagent_tests::image::Layout;
use microagent_tests::registry::{CREDENTIALS, Registry, Setup, TOKEN_ISSUER, TOKEN_SERVICE};
use microagent_tests::{or_skip, tool};

use crate::auth::build_with;
use crate::scripted_server::{Request, ScriptedServer, answer};
use crate::support::{TestDir, build};

/// Creates a signing key and its self-signed certificate.
fn make_key(directory: &Path) -> Result<(), microagent_tests::Error> {
    let path = |name: &str| directory.join(name).display().to_string();
    let (key, certificate) = (path("key.pem"), path("certificate.pem"));
    #[rustfmt::skip]
    let arguments = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=tokens", "-keyout", &key, "-out", &certificate];
    tool::run("openssl", arguments).map(drop)
}

/// A signed token (RFC 7519, RS256) with these access claims.
fn token(directory: &Path, access: &serde_json::Value) -> String {
    let certificate = std::fs::read_to_string(directory.join("certificate.pem")).unwrap();
    let lines = certificate.lines().filter(|line| !line.starts_with('-'));
    let header =
        serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [lines.collect::<String>()] });
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = serde_json::json!({
        "iss": TOKEN_ISSUER, "aud": TOKEN_SERVICE, "sub": "", "jti": "1", "iat": now,
        "nbf": now - 10, "exp": now + 60, "access": access,
    });
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &signed).unwrap();
    let key = directory.join("key.pem").display().to_string();
    let path = file.path().display().to_string();
    let signature = tool::run("openssl", ["dgst", "-sha256", "-sign", &key, &path]).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The values of a query field. Decodes only the characters that scopes contain.
fn query(request: &Request, name: &str) -> Vec<String> {
    let (_, query) = request.path.split_once('?').unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(key, _)| *key == name);
    let decoded = |text: &str| {
        text.replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ",")
    };
    values.map(|(_, value)| decoded(value)).collect()
}

/// A token server that grants everything to the test user, and pulls from
/// `public/` to everybody.
fn token_server(directory: &Path) -> ScriptedServer {
    let directory = directory.to_owned();
    let (user, password) = CREDENTIALS;
    let known = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    ScriptedServer::start(move |_, request| {
        let is_known = request.authorization.as_ref() == Some(&known);
        if request.authorization.is_some() && !is_known {
            return answer(401, &[], "");
        }
        let granted: Vec<_> = (query(request, "scope").iter())
            .filter_map(|scope| {
                let mut parts = scope.splitn(3, ':');
                let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
                let may =
                    |action: &&str| is_known || (name.starts_with("public/") && *action == "pull");
                let actions: Vec<_> = actions.split(',').filter(may).collect();
                Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
            })
            .collect();
        let token = token(&directory, &serde_json::json!(granted));
        let body = serde_json::json!({ "token": token, "access_token": token, "expires_in": 60 });
        answer(200, &[], &body.to_string())
    })
}

#[test]
fn a_registry_that_verifies_tokens_serves_only_what_they_grant() {
    let directory = tempfile::tempdir().unwrap();
    or_skip!(make_key(directory.path()));
    let layout = or_skip!(Layout::busybox());
    let server = token_server(directory.path());
    let realm = format!("http://{}/token", server.address);
    let registry = or_skip!(Registry::with_setup(&Setup {
        tokens: Some((&realm, &directory.path().join("certificate.pem"))),
        ..Setup::default()
    }));
    for name in ["public/app:1", "private/app:1"] {
        registry.push(&layout.reference("latest"), name).unwrap();
    }
    let reference = |name: &str| format!("{}/{name}/app:1", registry.address());
    let before = server.requests().len();
    build(&TestDir::new(), &reference("public")).unwrap();
    let tokens = server.requests().split_off(before);
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(query(&tokens[0], "service"), ["the%20registry"]);
    assert_eq!(query(&tokens[0], "scope"), ["repository:public/app:pull"]);

    let error = build(&TestDir::new(), &reference("private")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.to_string().ends_with("requires credentials"),
        "{error}"
    );

    let (user, password) = CREDENTIALS;
    for (password, expected) in [(password, "built"), ("wrong", "rejected the credentials")] {
        let file = directory.path().join("auth.json");
        let entry = serde_json::json!({ "username": user, "password": password });
        let document = serde_json::json!({ "auths": { registry.address(): entry } });
        std::fs::write(&file, document.to_string()).unwrap();
        let output = build_with(&[("REGISTRY_AUTH_FILE", &file)], &reference("private"));
        assert!(output.contains(expected), "{output}");
    }
}
