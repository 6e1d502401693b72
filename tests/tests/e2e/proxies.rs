//! Registries that are reachable only through a proxy.

use std::path::Path;

use microagent_tests::forward_proxy::{CREDENTIALS, ForwardProxy};
use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::{self, Registry};
use microagent_tests::{certificate, or_skip, root_or_skip, tool};

/// A name that only the proxy can resolve.
const NAME: &str = "behind.test";

fn build(host: &Host, registry: &Registry, variables: &[(&str, &str)]) -> Finished {
    let (_, port) = registry.address().rsplit_once(':').unwrap();
    let mut invocation = host.microagent(["--quiet", "rootfs", "build", "--allow-mutable"]);
    invocation.argument("--out").argument("out.ext4");
    invocation
        .argument("--image")
        .argument(format!("{NAME}:{port}/app:1"));
    for (name, value) in variables {
        invocation.variable(name, value);
    }
    invocation.finish()
}

#[test]
fn a_registry_is_reached_through_the_proxy_of_its_scheme() {
    root_or_skip!();
    for program in ["openssl", "unshare"] {
        or_skip!(tool::find(program));
    }
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let (certificate, key) = or_skip!(certificate::self_signed(&host.path(""), NAME));
    let registry = or_skip!(Registry::with_certificate(&certificate, &key));
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let proxy = or_skip!(ForwardProxy::start(NAME));
    let trust = ("SSL_CERT_FILE", certificate.to_str().unwrap());
    let (user, password) = CREDENTIALS;
    // A password is percent-encoded in a URL.
    let password = password.replace('-', "%2D");
    let url = format!("http://{user}:{password}@{}", proxy.address());
    let through = || {
        let line = format!("CONNECT {NAME}:");
        proxy
            .log()
            .iter()
            .filter(|entry| entry.contains(&line))
            .count()
    };

    // Without the proxy the name cannot be resolved.
    let failed = build(&host, &registry, &[trust]).expect_code(1);
    assert!(
        failed.errors().contains("cannot be resolved"),
        "{}",
        failed.errors()
    );
    let other_scheme = [trust, ("HTTP_PROXY", &*url)];
    let failed = build(&host, &registry, &other_scheme).expect_code(1);
    assert!(
        failed.errors().contains("cannot be resolved"),
        "{}",
        failed.errors()
    );
    for list in [".test", "other.example,behind.test", "*"] {
        let direct = [trust, ("HTTPS_PROXY", &*url), ("NO_PROXY", list)];
        let failed = build(&host, &registry, &direct).expect_code(1);
        assert!(
            failed.errors().contains("cannot be resolved"),
            "{}",
            failed.errors()
        );
    }
    assert_eq!(through(), 0);

    for (number, variable) in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .enumerate()
    {
        let variables = [
            trust,
            (variable, &*url),
            ("NO_PROXY", "ehind.test,10.0.0.0/8"),
        ];
        build(&host, &registry, &variables).expect_code(0);
        assert!(through() > number, "{variable}: {:?}", proxy.log());
        std::fs::remove_file(host.path("out.ext4")).unwrap();
        std::fs::remove_dir_all(host.state()).unwrap();
    }
}

#[test]
fn plain_http_needs_no_tunnel() {
    root_or_skip!();
    or_skip!(tool::find("unshare"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let registry = or_skip!(Registry::with_password());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let proxy = or_skip!(ForwardProxy::strict(NAME));
    let name = format!("{NAME}:{}", registry.address().rsplit_once(':').unwrap().1);
    let write = |file: &str, document: serde_json::Value| {
        std::fs::write(host.path(file), document.to_string()).unwrap();
        host.path(file).display().to_string()
    };
    let insecure = serde_json::json!({ "registries": { &name: { "insecure": true } } });
    let registries = write("registries.json", insecure);
    let (user, password) = registry::CREDENTIALS;
    let entry = serde_json::json!({ "username": user, "password": password });
    let auth = write(
        "auth.json",
        serde_json::json!({ "auths": { &name: entry } }),
    );
    let (user, password) = CREDENTIALS;
    let url = format!("http://{user}:{password}@{}", proxy.address());
    let variables = [
        ("MICROAGENT_REGISTRIES", &*registries),
        ("REGISTRY_AUTH_FILE", &auth),
        ("ALL_PROXY", &url),
    ];
    build(&host, &registry, &variables).expect_code(0);
    let requests = format!("GET http://{name}/v2/app/");
    let log = proxy.log();
    assert!(log.iter().any(|line| line.contains(&requests)), "{log:?}");
}

#[test]
fn the_error_of_a_failing_proxy_names_it_without_its_password() {
    root_or_skip!();
    or_skip!(tool::find("unshare"));
    let host = or_skip!(Host::new());
    let registry = or_skip!(Registry::start());
    let proxy = or_skip!(ForwardProxy::start(NAME));
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = bind().local_addr().unwrap();
    // Accepts connections, but never responds.
    let silent = bind();
    let mute = silent.local_addr().unwrap();
    let wrong = format!("http://proxied:secret@{}", proxy.address());
    for (value, expected) in [
        (
            wrong,
            format!("the proxy {}: it returned status 401", proxy.address()),
        ),
        (
            format!("http://u:secret@{gone}"),
            format!("the proxy {gone}: it refused the connection"),
        ),
        (
            format!("http://u:secret@{mute}"),
            format!("the proxy {mute}: it timed out"),
        ),
        (
            "http://u:secret@proxy.invalid:3128".to_owned(),
            "the proxy proxy.invalid:3128: its name cannot be resolved".to_owned(),
        ),
        (
            "ftp://u:secret@proxy".to_owned(),
            "$HTTPS_PROXY is not a valid proxy URL".to_owned(),
        ),
    ] {
        let finished = build(&host, &registry, &[("HTTPS_PROXY", &value)]).expect_code(1);
        let errors = finished.errors();
        assert!(errors.contains(&expected), "{value}: {errors}");
        assert!(!errors.contains("secret"), "{errors}");
        assert_eq!(errors.lines().count(), 2, "{errors}");
    }
}

#[test]
fn a_registry_on_loopback_is_accessed_without_a_proxy() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let mut invocation = host.microagent(["--quiet", "rootfs", "build", "--allow-mutable"]);
    invocation.argument("--out").argument("out.ext4");
    invocation
        .argument("--image")
        .argument(format!("{}/app:1", registry.address()));
    for variable in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"] {
        invocation.variable(variable, "http://proxy.invalid:1");
    }
    invocation.finish().expect_code(0);
    assert!(Path::new(&host.path("out.ext4")).exists());
}
