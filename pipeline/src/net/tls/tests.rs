use std::path::PathBuf;
use std::time::Duration;

use microagent_tests::{or_skip, tool};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::*;

/// Makes `NAME.pem` and `NAME.key` for the host `reg.test` with `openssl req -x509` and these
/// arguments.
pub(super) fn certificate(
    directory: &Path,
    name: &str,
    arguments: &[&str],
) -> Result<PathBuf, microagent_tests::Error> {
    let file = directory.join(format!("{name}.pem"));
    let key = directory.join(format!("{name}.key"));
    let (out, keyout) = (file.display().to_string(), key.display().to_string());
    #[rustfmt::skip]
    let all = ["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=reg.test",
        "-addext", "subjectAltName=DNS:reg.test,IP:10.1.2.3", "-out", &out, "-keyout", &keyout];
    tool::run("openssl", all.into_iter().chain(arguments.iter().copied()))?;
    Ok(file)
}

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// The error of verifying a server's certificate for `name`, after so many days.
fn refusal(trusted: &[&Path], presented: &Path, name: &str, days: u64) -> Option<String> {
    let trusted = trusted.iter().map(|file| der(file)).collect();
    let verifier = Verifier::new(trusted, &Arc::new(provider())).unwrap();
    let now = UnixTime::now().as_secs() + days * 24 * 60 * 60;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let verified = verifier.verify_server_cert(&der(presented), &[], &name, &[], now);
    verified.err().map(|error| error.to_string())
}

#[test]
fn a_certificate_in_the_trust_store_is_trusted_whatever_else_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let authority = or_skip!(certificate(dir.path(), "authority", &P256));
    let twin = certificate(dir.path(), "twin", &P256).unwrap();
    let host_only = [
        &P256[..],
        &["-addext", "basicConstraints=critical,CA:FALSE"],
    ]
    .concat();
    let host_only = certificate(dir.path(), "host", &host_only).unwrap();
    let with_key = |name: &str| dir.path().join(name).display().to_string();
    let (ca, ca_key) = (with_key("authority.pem"), with_key("authority.key"));
    #[rustfmt::skip]
    let issued = [&P256[..], &["-CA", &ca, "-CAkey", &ca_key,
        "-addext", "basicConstraints=critical,CA:FALSE"]].concat();
    let issued = certificate(dir.path(), "issued", &issued).unwrap();

    for good in [&authority, &host_only, &issued] {
        assert_eq!(refusal(&[&twin, good], good, "reg.test", 0), None);
        assert_eq!(refusal(&[&twin, good], good, "10.1.2.3", 0), None);
        let wrong_name = refusal(&[good], good, "other.test", 0).unwrap();
        assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
        let expired = refusal(&[good], good, "reg.test", 3).unwrap();
        assert!(expired.contains("expired"), "{expired}");
        // Another one with the same name does not help.
        assert!(refusal(&[&twin], good, "reg.test", 0).is_some());
        assert!(refusal(&[], good, "reg.test", 0).is_some());
    }
    assert_eq!(refusal(&[&authority], &issued, "reg.test", 0), None);
    // What is trusted as a server is not trusted as an authority.
    assert!(refusal(&[&issued], &authority, "reg.test", 0).is_some());
}

/// Whether the two ends agree, without a network.
fn shake_hands(
    client: Arc<ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> Result<(), rustls::Error> {
    let mut client = ClientConnection::new(client, "reg.test".try_into().unwrap())?;
    let mut server = rustls::ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut sent = &bytes[..];
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
        }
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut sent = &bytes[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
        }
        client.process_new_packets()?;
    }
    Ok(())
}

/// A server with the certificate `NAME.pem` that asks clients for one of `authority`, if any.
fn server(
    dir: &Path,
    name: &str,
    authority: Option<&Path>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(provider());
    let key =
        rustls::pki_types::PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let builder = match authority {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(der(authority)).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![der(&dir.join(format!("{name}.pem")))];
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

#[test]
fn servers_with_any_key_and_version_are_reached_and_get_our_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = or_skip!(certificate(dir.path(), "ca", &P256));
    let (ca_pem, ca_key) = (
        ca.display().to_string(),
        dir.path().join("ca.key").display().to_string(),
    );
    let issued_by_ca = [
        "-CA",
        &ca_pem,
        "-CAkey",
        &ca_key,
        "-addext",
        "basicConstraints=CA:FALSE",
    ];
    certificate(dir.path(), "client", &[&P256[..], &issued_by_ca].concat()).unwrap();
    for (name, key) in [
        ("p256", &P256[..]),
        (
            "p384",
            &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"],
        ),
        ("rsa", &["-newkey", "rsa:4096"]),
        ("ed25519", &["-newkey", "ed25519"]),
    ] {
        let own = certificate(dir.path(), name, key).unwrap();
        let trust = dir.path().join(format!("{name}.d"));
        std::fs::create_dir(&trust).unwrap();
        std::fs::copy(&own, trust.join("ca.crt")).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = |directory: Option<&Path>| client_config(true, directory).unwrap();
            let open = || server(dir.path(), name, None, version);
            assert_eq!(shake_hands(config(Some(&trust)), open()), Ok(()), "{name}");
            assert!(shake_hands(config(None), open()).is_err(), "{name}");
            assert_eq!(
                shake_hands(client_config(false, None).unwrap(), open()),
                Ok(()),
                "{name}"
            );
        }
    }
    let trust = dir.path().join("p256.d");
    let strict = || server(dir.path(), "p256", Some(&ca), &rustls::version::TLS13);
    assert!(shake_hands(client_config(true, Some(&trust)).unwrap(), strict()).is_err());
    std::fs::copy(dir.path().join("client.pem"), trust.join("client.cert")).unwrap();
    std::fs::copy(dir.path().join("client.key"), trust.join("client.key")).unwrap();
    assert_eq!(
        shake_hands(client_config(true, Some(&trust)).unwrap(), strict()),
        Ok(())
    );
}

#[test]
fn a_directory_has_authorities_and_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let made = tempfile::tempdir().unwrap();
    let pem = or_skip!(certificate(made.path(), "a", &P256));
    let key = made.path().join("a.key");
    let rsa = certificate(made.path(), "rsa", &["-newkey", "rsa:2048"]).unwrap();
    let read = || {
        HostCertificates::read(dir.path(), &provider())
            .map(|found| (found.authorities.len(), found.keys.len()))
            .map_err(|error| error.to_string())
    };
    let to = |name: &str| dir.path().join(name);
    assert_eq!(read(), Ok((0, 0)));
    std::fs::copy(&pem, to("ca.crt")).unwrap();
    std::fs::write(to("README"), "not a certificate").unwrap();
    assert_eq!(read(), Ok((1, 0)));
    std::fs::copy(&pem, to("client.cert")).unwrap();
    let missing = "its .key is missing (authorities have the extension .crt)";
    assert_eq!(
        read(),
        Err(format!("{}: {missing}", to("client.cert").display()))
    );
    std::fs::copy(&key, to("client.key")).unwrap();
    assert_eq!(read(), Ok((1, 1)));
    assert!(client_config(true, Some(dir.path())).is_ok());
    std::fs::copy(&rsa, to("other.cert")).unwrap();
    std::fs::copy(made.path().join("rsa.key"), to("other.key")).unwrap();
    assert_eq!(read(), Ok((1, 2)));
    std::fs::remove_file(to("client.cert")).unwrap();
    assert_eq!(
        read(),
        Err(format!(
            "{}: its .cert is missing",
            to("client.key").display()
        ))
    );
    std::fs::copy(&pem, to("client.cert")).unwrap();
    std::fs::write(to("client.key"), "nothing").unwrap();
    assert_eq!(
        read(),
        Err(format!(
            "{}: it has no private key",
            to("client.key").display()
        ))
    );
}
