use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What a client that is not ours sends first.
pub(crate) fn rustls_hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn hello(name: Option<&str>, end: usize) -> Beginning {
    Beginning::Hello {
        name: name.map(|name| name.parse().unwrap()),
        end,
    }
}

fn vector(prefix: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[8 - prefix..], content].concat()
}

/// A ClientHello with these extensions: types and contents.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vector(1, &[1; 32]));
    body.extend(vector(2, &[0x13, 1]));
    body.extend(vector(1, &[0]));
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector(2, content)].concat())
        .collect();
    body.extend(vector(2, &extensions));
    [&[1][..], &vector(3, &body)].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat())
        .collect()
}

fn server_name(name: &[u8]) -> (u16, Vec<u8>) {
    (0, vector(2, &[&[0][..], &vector(2, name)].concat()))
}

/// A ClientHello in one record.
pub(crate) fn hello_of(name: &str) -> Vec<u8> {
    records(
        &message(&[server_name(name.as_bytes()), (16, vec![0; 40])]),
        10_000,
    )
}

#[test]
fn the_server_name_of_a_real_client_is_found_at_its_last_byte() {
    let bytes = rustls_hello("Files.PythonHosted.org");
    assert_eq!(
        read(&bytes),
        hello(Some("files.pythonhosted.org"), bytes.len())
    );
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length]), Beginning::Incomplete, "{length}");
    }
    let more = [&bytes[..], b"early data"].concat();
    assert_eq!(
        read(&more),
        hello(Some("files.pythonhosted.org"), bytes.len())
    );
    // Clients do not send addresses.
    let bytes = rustls_hello("192.0.2.1");
    assert_eq!(read(&bytes), hello(None, bytes.len()));
}

#[test]
fn a_message_may_be_spread_over_records() {
    let message = message(&[(5, vec![1, 0, 0]), server_name(b"a.example.")]);
    for size in [1, 3, 7, 100, message.len()] {
        let bytes = records(&message, size);
        assert_eq!(
            read(&bytes),
            hello(Some("a.example"), bytes.len()),
            "{size}"
        );
        for length in 0..bytes.len() {
            assert_eq!(
                read(&bytes[..length]),
                Beginning::Incomplete,
                "{size} {length}"
            );
        }
    }
}

#[test]
fn other_protocols_are_not_tls() {
    for data in [
        &b"SSH-2.0-OpenSSH"[..],
        b"GET / HTTP/1.1\r\n",
        b"\x15\x03\x03",
        b"\x80\x2e\x01",
        b"\0",
    ] {
        assert_eq!(read(data), Beginning::NotTls, "{data:?}");
    }
}

#[test]
fn invalid_messages_are_not_understood() {
    let name = || server_name(b"a.example");
    let valid = message(&[name()]);
    let record = |bytes: &[u8]| records(bytes, 10_000);
    let changed = |at: usize, byte: u8| {
        let mut bytes = record(&valid);
        bytes[at] = byte;
        bytes
    };
    for (what, bytes) in [
        ("another version", changed(1, 2)),
        (
            "an empty record",
            [&[22, 3, 1, 0, 0][..], &record(&valid)].concat(),
        ),
        ("a record that is too long", changed(3, 0x40)),
        ("another message", changed(5, 2)),
        ("a message that is too long", changed(6, 1)),
        (
            "something after the message",
            record(&[&valid[..], &[0]].concat()),
        ),
        ("another record before its end", {
            let mut bytes = records(&valid, 50);
            bytes[55] = 23;
            bytes
        }),
        ("two names", record(&message(&[name(), name()]))),
        (
            "two names in a list",
            record(&message(&[(0, vector(2, b"\0\0\x03a.b\0\0\x03c.d"))])),
        ),
        (
            "another type of name",
            record(&message(&[(0, vector(2, b"\x01\0\x03a.b"))])),
        ),
        ("an empty list", record(&message(&[(0, vector(2, b""))]))),
        ("no list", record(&message(&[(0, Vec::new())]))),
        (
            "more than the list",
            record(&message(&[(0, b"\0\x06\0\0\x03a.b!".to_vec())])),
        ),
        ("an address", record(&message(&[server_name(b"192.0.2.1")]))),
        ("no name", record(&message(&[server_name(b"")]))),
        (
            "a null byte",
            record(&message(&[server_name(b"a.example\0.b")])),
        ),
        ("a wildcard", record(&message(&[server_name(b"*.example")]))),
        ("a message without its end", {
            let mut short = valid.clone();
            short.truncate(60);
            short[3] = 56;
            record(&short)
        }),
    ] {
        assert_eq!(read(&bytes), Beginning::Invalid, "{what}");
    }
}

#[test]
fn the_length_is_limited() {
    let padding = |length| message(&[(21, vec![0; length]), server_name(b"a.example")]);
    let bytes = records(&padding(16_000), 16_384);
    assert_eq!(read(&bytes), hello(Some("a.example"), bytes.len()));
    let bytes = records(&padding(16_000), 20);
    assert_eq!(read(&bytes[..MAX_HELLO - 1]), Beginning::Incomplete);
    assert_eq!(read(&bytes[..MAX_HELLO]), Beginning::Invalid);
    assert_eq!(read(&records(&padding(17_000), 16_384)), Beginning::Invalid);
}
