//! Handshakes with `openssl s_server`: keys, curves, suites and certificates that other clients take
//! or refuse.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use microagent_tests::or_skip;
use microagent_tests::scoped_process::ScopedProcess;

use super::tests::certificate;
use super::*;

const P256: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
const P521: &str = "-newkey ec -pkeyopt ec_paramgen_curve:secp521r1";
const RSA: &str = "-newkey rsa:2048";
const RSA_1024: &str = "-newkey rsa:1024";
/// Without the limits of OpenSSL's servers.
const WEAK: &str = "-cipher ALL:@SECLEVEL=0";
const LEAF: &str = "-addext basicConstraints=CA:FALSE";

/// Handshakes in directories of their own.
struct Hosts {
    directory: tempfile::TempDir,
}

impl Hosts {
    /// Makes the certificate `NAME.pem` with its key, for `openssl req -x509` with these arguments.
    fn certificate(&self, name: &str, arguments: &str) -> Result<(), microagent_tests::Error> {
        let directory = self.directory.path();
        let arguments = arguments.replace("DIR", &directory.display().to_string());
        let arguments: Vec<&str> = arguments
            .split(' ')
            .filter(|word| !word.is_empty())
            .collect();
        certificate(directory, name, &arguments).map(drop)
    }

    /// The result of a handshake with a server that has the certificate `NAME.pem`, by a client that
    /// trusts `TRUSTED.pem`, or verifies nothing if there is none.
    fn shake_hands(&self, name: &str, server: &str, trusted: Option<&str>) -> Result<(), String> {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-www", "-accept", "127.0.0.1:0"])
            .args(["-cert".as_ref(), file(&format!("{name}.pem")).as_os_str()])
            .args(["-key".as_ref(), file(&format!("{name}.key")).as_os_str()])
            .args(server.split(' ').filter(|word| !word.is_empty()));
        let server = ScopedProcess::start(&command, Stdio::piped(), Stdio::null());
        let mut server = server.unwrap();
        let lines = BufReader::new(server.stdout().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("ACCEPT ")?.to_owned()));
        let mut socket = TcpStream::connect(address.unwrap()).unwrap();

        let trust = tempfile::tempdir().unwrap();
        if let Some(trusted) = trusted {
            let trusted = file(&format!("{trusted}.pem"));
            std::fs::copy(trusted, trust.path().join("ca.crt")).unwrap();
        }
        let config = client_config(trusted.is_some(), Some(trust.path())).unwrap();
        let mut client = ClientConnection::new(config, "reg.test".try_into().unwrap()).unwrap();
        match client.complete_io(&mut socket).map_err(explained) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[test]
fn what_go_supports_is_supported_and_what_is_not_secure_is_named() {
    let hosts = Hosts {
        directory: tempfile::tempdir().unwrap(),
    };
    let no_suite = "the server supports neither TLS 1.3 nor TLS 1.2 with ECDHE and AES-GCM or \
                    ChaCha20-Poly1305, or no curve or key that is supported (it sent the alert ";
    let short = "an RSA key of less than 2048 bits is not secure";
    or_skip!(hosts.certificate("p256", P256));
    for (name, key) in [
        ("p521", P521),
        ("rsa", RSA),
        ("rsa1024", RSA_1024),
        ("rsa2047", "-newkey rsa:2047"),
        ("ed25519", "-newkey ed25519"),
        ("pss", "-newkey rsa-pss -pkeyopt rsa_keygen_bits:2048"),
    ] {
        hosts.certificate(name, key).unwrap();
    }
    for (name, server, expected) in [
        ("p521", "-tls1_2", ""),
        ("p521", "-tls1_3", ""),
        ("ed25519", "-tls1_2", ""),
        ("p256", "-groups P-521 -tls1_2", ""),
        ("p256", "-groups P-521 -tls1_3", ""),
        ("p256", "-groups P-384 -tls1_2", ""),
        ("p256", "-groups P-384 -tls1_3", ""),
        ("p521", "-groups X25519", ""),
        ("rsa", "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", ""),
        ("rsa", "-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384", ""),
        ("rsa", "-tls1_2 -cipher ECDHE-RSA-AES256-SHA", no_suite),
        ("rsa", "-tls1_2 -cipher AES128-GCM-SHA256", no_suite),
        ("rsa", &format!("-tls1_1 {WEAK}"), no_suite),
        // Go does not know these either.
        ("pss", "", no_suite),
        ("p256", "-groups X448", no_suite),
        ("rsa1024", &format!("-tls1_2 {WEAK}"), short),
        ("rsa1024", &format!("-tls1_3 {WEAK}"), short),
        ("rsa2047", "-tls1_2", short),
    ] {
        let result = hosts.shake_hands(name, server, Some(name));
        match expected {
            "" => assert_eq!(result, Ok(()), "{name} {server}"),
            expected => {
                let error = result.unwrap_err();
                assert!(error.starts_with(expected), "{name} {server}: {error}");
            }
        }
    }
    // Where nothing is verified, neither is the key.
    let insecure = hosts.shake_hands("rsa1024", &format!("-tls1_2 {WEAK}"), None);
    assert_eq!(insecure, Ok(()));
}

#[test]
fn chains_that_go_trusts_are_trusted() {
    let hosts = Hosts {
        directory: tempfile::tempdir().unwrap(),
    };
    or_skip!(hosts.certificate("ca256", P256));
    hosts.certificate("ca521", P521).unwrap();
    hosts.certificate("ca1024", RSA_1024).unwrap();
    let purpose = "-addext extendedKeyUsage=";
    for (name, authority, leaf, expected) in [
        ("by-p521", "ca521", LEAF, ""),
        ("by-p521-sha256", "ca521", &format!("{LEAF} -sha256"), ""),
        ("by-p521-sha512", "ca521", &format!("{LEAF} -sha512"), ""),
        ("by-p256-sha384", "ca256", &format!("{LEAF} -sha384"), ""),
        ("by-p256-sha512", "ca256", &format!("{LEAF} -sha512"), ""),
        (
            "any",
            "ca256",
            &format!("{LEAF} {purpose}anyExtendedKeyUsage"),
            "",
        ),
        (
            "both",
            "ca256",
            &format!("{LEAF} {purpose}clientAuth,serverAuth"),
            "",
        ),
        (
            "client",
            "ca256",
            &format!("{LEAF} {purpose}clientAuth"),
            "invalid peer certificate: certificate does not allow extended key usage for server",
        ),
        (
            "sha1",
            "ca256",
            &format!("{LEAF} -sha1"),
            "invalid peer certificate: UnsupportedSignatureAlgorithm",
        ),
        (
            "short",
            "ca1024",
            LEAF,
            "an RSA key of less than 2048 bits is not secure",
        ),
        (
            "authority",
            "ca256",
            "-addext keyUsage=digitalSignature",
            "the server's certificate is that of an authority (CA:TRUE), but not trusted",
        ),
    ] {
        let issuer = format!("-CA DIR/{authority}.pem -CAkey DIR/{authority}.key");
        let issued = hosts.certificate(name, &format!("{P256} {issuer} {leaf}"));
        issued.unwrap();
        let result = hosts.shake_hands(name, WEAK, Some(authority));
        match expected {
            "" => assert_eq!(result, Ok(()), "{name}"),
            expected => {
                let error = result.unwrap_err();
                assert!(error.starts_with(expected), "{name}: {error}");
            }
        }
        let other = if authority == "ca521" {
            "ca256"
        } else {
            "ca521"
        };
        assert!(
            hosts.shake_hands(name, WEAK, Some(other)).is_err(),
            "{name}"
        );
    }
    // The way out that the documentation names.
    assert_eq!(
        hosts.shake_hands("authority", "", Some("authority")),
        Ok(())
    );
}
