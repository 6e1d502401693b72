//! A registry with a name and a certificate, as those of companies are.

use std::path::PathBuf;

use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::Registry;
use microagent_tests::{or_skip, root_or_skip, tool};

/// A name that is no loopback address, so that nothing but HTTPS is allowed.
const NAME: &str = "registry.test";

/// A self-signed certificate for [`NAME`], and its key.
fn certificate(host: &Host) -> (PathBuf, PathBuf) {
    let (certificate, key) = (host.path("certificate.pem"), host.path("key.pem"));
    let subject = format!("/CN={NAME}");
    let names = format!("subjectAltName=DNS:{NAME}");
    let paths = [certificate.display().to_string(), key.display().to_string()];
    #[rustfmt::skip]
    let arguments = [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", &subject, "-addext", &names,
        "-addext", "basicConstraints=critical,CA:FALSE", "-out", &paths[0], "-keyout", &paths[1],
    ];
    tool::run("openssl", arguments).unwrap();
    (certificate, key)
}

/// Builds the image from the registry, in a mount namespace where [`NAME`] is this machine.
fn build(host: &Host, registry: &Registry, trusted: Option<&PathBuf>) -> Finished {
    let (_, port) = registry.address().rsplit_once(':').unwrap();
    let script = format!(
        "echo '127.0.0.1 localhost {NAME}' >hosts && exec unshare --mount sh -c '
            mount --bind hosts /etc/hosts && exec microagent --quiet rootfs build \
                --allow-mutable --image {NAME}:{port}/team/busybox:1 --out out.ext4'"
    );
    let mut invocation = host.shell(&script);
    if let Some(file) = trusted {
        invocation.variable("SSL_CERT_FILE", file);
    }
    invocation.finish()
}

#[test]
fn a_registry_is_spoken_to_over_https_and_its_certificate_is_checked() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    for program in ["openssl", "unshare"] {
        or_skip!(tool::find(program));
    }
    let (certificate, key) = certificate(&host);
    let registry = or_skip!(Registry::with_certificate(&certificate, &key));
    let pushed = registry.push(&layout.reference("latest"), "team/busybox:1");
    pushed.unwrap();

    let refused = build(&host, &registry, None).expect_code(1);
    let said = refused.errors();
    assert!(
        said.contains(NAME) && said.contains("certificate"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!host.path("out.ext4").exists());

    build(&host, &registry, Some(&certificate)).expect_code(0);
    let local = [
        "--quiet",
        "rootfs",
        "build",
        "--allow-mutable",
        "--out",
        "local.ext4",
        "--image",
    ];
    let mut local = host.microagent(local);
    local.argument(layout.reference("latest"));
    local.finish().expect_code(0);
    let read = |name| std::fs::read(host.path(name)).unwrap();
    assert!(read("out.ext4") == read("local.ext4"));
}
