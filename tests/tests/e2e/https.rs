//! Registries under host names, as in companies: with a trusted certificate, with an untrusted one,
//! and without TLS.

use std::path::Path;

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::file_server::FileServer;
use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::{CREDENTIALS, Registry, Setup};
use microagent_tests::{certificate, or_skip, root_or_skip, tool};

/// Names that are not loopback addresses, so that only HTTPS is allowed.
const NAME: &str = "registry.test";
const STORAGE: &str = "storage.test";

/// Builds `team/busybox:1` from the registry on this port, in a mount namespace where the names
/// resolve to this host.
fn build(host: &Host, port: &str, variables: &[(&str, &Path)]) -> Finished {
    let script = format!(
        "echo '127.0.0.1 localhost {NAME} {STORAGE}' >hosts && exec unshare --mount sh -c '
            mount --bind hosts /etc/hosts && exec microagent --quiet rootfs build \
                --allow-mutable --image {NAME}:{port}/team/busybox:1 --out out.ext4'"
    );
    let mut invocation = host.shell(&script);
    for (name, value) in variables {
        invocation.variable(name, value);
    }
    invocation.finish()
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

fn write(host: &Host, name: &str, document: &serde_json::Value) -> std::path::PathBuf {
    let path = host.path(name);
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

/// Checks that the result equals a build from the layout.
fn assert_built(host: &Host, layout: &Layout) {
    let mut local = host.microagent(["--quiet", "rootfs", "build", "--allow-mutable"]);
    local.argument("--out").argument("local.ext4");
    local
        .argument("--image")
        .argument(layout.reference("latest"));
    local.finish().expect_code(0);
    let read = |name| std::fs::read(host.path(name)).unwrap();
    assert!(read("out.ext4") == read("local.ext4"));
    std::fs::remove_file(host.path("out.ext4")).unwrap();
    std::fs::remove_dir_all(host.state().join("cas")).unwrap();
}

#[test]
fn a_registry_is_accessed_over_https_and_its_certificate_is_verified() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    for program in ["openssl", "unshare"] {
        or_skip!(tool::find(program));
    }
    let (certificate, key) = or_skip!(certificate::self_signed_authority(&host.path(""), NAME));
    let registry = or_skip!(Registry::with_certificate(&certificate, &key));
    let pushed = registry.push(&layout.reference("latest"), "team/busybox:1");
    pushed.unwrap();
    let port = port(registry.address());

    let refused = build(&host, port, &[]).expect_code(1);
    let errors = refused.errors();
    assert!(
        errors.contains(NAME) && errors.contains("certificate"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(!host.path("out.ext4").exists());

    build(&host, port, &[("SSL_CERT_FILE", &certificate)]).expect_code(0);
    assert_built(&host, &layout);

    // A directory with certificates for this registry, as for docker and podman.
    let home = host.path("home-with-certificates");
    let directory = home.join(format!(".config/containers/certs.d/{NAME}:{port}"));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(&certificate, directory.join("ca.crt")).unwrap();
    build(&host, port, &[("HOME", &home)]).expect_code(0);
    assert_built(&host, &layout);
    std::fs::copy(&certificate, directory.join("client.cert")).unwrap();
    let refused = build(&host, port, &[("HOME", &home)]).expect_code(1);
    let errors = refused.errors();
    let expected = "cannot be used with the certificates for it: ";
    assert!(
        errors.contains(expected) && errors.contains("client.cert"),
        "{errors}"
    );
    let incomplete = errors
        .trim_end()
        .rsplit_once("repair or remove ")
        .unwrap()
        .1;
    std::fs::remove_file(incomplete).unwrap();
    build(&host, port, &[("HOME", &home)]).expect_code(0);
    assert_built(&host, &layout);

    // `insecure` applies to a registry, whose name includes the port.
    let registries = |port: &str| {
        let name = format!("{NAME}:{port}");
        let document = serde_json::json!({ "registries": { name: { "insecure": true } } });
        write(&host, "registries.json", &document)
    };
    let named = registries(port);
    build(&host, port, &[("MICROAGENT_REGISTRIES", &named)]).expect_code(0);
    assert_built(&host, &layout);
    std::fs::copy(&named, host.state().join("registries.json")).unwrap();
    build(&host, port, &[]).expect_code(0);
    assert_built(&host, &layout);
}

#[test]
fn an_insecure_registry_may_use_plain_http_with_a_password() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    or_skip!(tool::find("unshare"));
    let registry = or_skip!(Registry::with_password());
    let pushed = registry.push(&layout.reference("latest"), "team/busybox:1");
    pushed.unwrap();
    let port = port(registry.address());
    let name = format!("{NAME}:{port}");
    let (user, password) = CREDENTIALS;
    let entry = serde_json::json!({ "username": user, "password": password });
    let auth = serde_json::json!({ "auths": { &name: entry } });
    let auth = write(&host, "auth.json", &auth);

    let refused = build(&host, port, &[("REGISTRY_AUTH_FILE", &auth)]).expect_code(1);
    let errors = refused.errors();
    assert!(errors.contains("cannot be trusted"), "{errors}");
    assert!(errors.contains("registries.json"), "{errors}");

    let document = serde_json::json!({ "registries": { &name: { "insecure": true } } });
    let registries = write(&host, "registries.json", &document);
    let variables: [(&str, &Path); 2] = [
        ("REGISTRY_AUTH_FILE", &auth),
        ("MICROAGENT_REGISTRIES", &registries),
    ];
    build(&host, port, &variables).expect_code(0);
    assert_built(&host, &layout);
}

#[test]
fn a_secure_registry_cannot_redirect_to_plain_http() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    for program in ["openssl", "unshare"] {
        or_skip!(tool::find(program));
    }
    let (certificate, key) = or_skip!(certificate::self_signed(&host.path(""), NAME));
    let files = or_skip!(FileServer::bind());
    let storage = or_skip!(FaultProxy::start(files.address(), Vec::new()));
    let storage_name = format!("{STORAGE}:{}", port(storage.address()));
    let registry = or_skip!(Registry::with_setup(&Setup {
        password: true,
        tls: Some((&certificate, &key)),
        blob_redirect: Some(&format!("http://{storage_name}")),
        ..Setup::default()
    }));
    let _files = or_skip!(files.serve(&registry.storage()));
    let pushed = registry.push(&layout.reference("latest"), "team/busybox:1");
    pushed.unwrap();
    let port = port(registry.address());
    let (user, password) = CREDENTIALS;
    let entry = serde_json::json!({ "username": user, "password": password });
    let auth = serde_json::json!({ "auths": { format!("{NAME}:{port}"): entry } });
    let auth = write(&host, "auth.json", &auth);
    let trusted: [(&str, &Path); 2] = [
        ("REGISTRY_AUTH_FILE", &auth),
        ("SSL_CERT_FILE", &certificate),
    ];

    let refused = build(&host, port, &trusted).expect_code(1);
    let errors = refused.errors();
    let expected = format!("(at {storage_name}) requires plain HTTP, which is not allowed");
    assert!(errors.contains(&expected), "{errors}");
    assert!(storage.requests().is_empty());

    // The user can allow it; the password is still not sent.
    let document = serde_json::json!({ "registries": { storage_name: { "insecure": true } } });
    write(&host, "registries.json", &document);
    let registries = host.path("registries.json");
    let [auth, trust] = trusted;
    let allowed = [auth, trust, ("MICROAGENT_REGISTRIES", &*registries)];
    build(&host, port, &allowed).expect_code(0);
    assert_built(&host, &layout);
    let heads = storage.heads();
    // Configuration and layer.
    assert_eq!(heads.len(), 2, "{heads:?}");
    let is_authorized = |head: &String| head.to_ascii_lowercase().contains("authorization");
    assert!(!heads.iter().any(is_authorized), "{heads:?}");
}

#[test]
fn an_invalid_registries_file_is_named_with_the_reason() {
    let host = or_skip!(Host::new());
    let build = |named: Option<&Path>| {
        let mut invocation = host.microagent(["rootfs", "build", "--allow-mutable"]);
        invocation.argument("--out").argument("out.ext4");
        invocation.argument("--image").argument("oci:/no/such");
        if let Some(path) = named {
            invocation.variable("MICROAGENT_REGISTRIES", path);
        }
        invocation.finish().expect_code(1).errors()
    };
    let typo = serde_json::json!({ "registries": { "reg.lan": { "insecur": true } } });
    let file = write(&host, "registries.json", &typo);
    let errors = build(Some(&file));
    let first = errors.lines().next().unwrap();
    let expected = format!(
        "microagent: the registries file {} cannot be used: it is not valid: unknown field `insecur`, expected `mirrors` or `insecure`",
        file.display()
    );
    assert!(first.starts_with(&expected), "{errors}");
    assert_eq!(errors.lines().count(), 2, "{errors}");

    let errors = build(Some(&host.path("absent.json")));
    assert!(errors.contains("absent.json cannot be used"), "{errors}");
    // The default file may be missing, but not invalid.
    assert!(build(None).contains("/no/such"));
    std::fs::create_dir_all(host.state()).unwrap();
    std::fs::copy(&file, host.state().join("registries.json")).unwrap();
    assert!(build(None).contains("insecur"));
}
