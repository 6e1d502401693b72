use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::image::document::{Configuration, ImageConfig};

/// Pairs of lines: a document, and what Go 1.19 makes of it. `{"os":…, "cmd":…}` is the result of
/// `json.Unmarshal` into `v1.Image` of image-spec, in which `null` is a nil slice, `error` its
/// error.
const GOLDEN: &str = include_str!("golden.txt");

fn read(document: &[u8]) -> Result<Value, serde_json::Error> {
    let read: Configuration = from_slice(document)?;
    let list = |list: &[String]| match list {
        [] => Value::Null,
        list => json!(list),
    };
    let config = &read.config;
    Ok(json!({
        "arch": read.architecture, "os": read.os, "variant": read.variant,
        "cmd": list(&config.cmd), "entrypoint": list(&config.entrypoint), "env": list(&config.env),
        "dir": config.working_dir, "user": config.user,
        "stop": config.stop_signal.as_deref().unwrap_or(""),
        "diff": list(&read.rootfs.diff_ids),
    }))
}

#[test]
fn documents_are_decoded_as_by_go() {
    let lines: Vec<_> = GOLDEN.lines().collect();
    for pair in lines.chunks(2) {
        let &[document, golden] = pair else {
            panic!("{pair:?}");
        };
        let decoded = read(document.as_bytes());
        if golden.trim() == "error" {
            assert!(decoded.is_err(), "{document}: {decoded:?}");
        } else {
            // An empty slice is not nil in Go, but means the same to every reader.
            let golden = golden.replace("[]", "null");
            let expected: Value = serde_json::from_str(&golden).unwrap();
            assert_eq!(decoded.expect(document), expected, "{document}");
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_one_by_one() {
    let os = |document: &[u8]| read(document).ok().map(|read| read["os"].clone());
    for (document, expected) in [
        (
            &b"{\"os\":\"a\xffb\xe2\x82c\"}"[..],
            "a\u{fffd}b\u{fffd}\u{fffd}c",
        ),
        (b"{\"os\":\"\xed\xa0\x80\"}", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"{\"os\":\"\xf0\x9f\x98\"}", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"{\"o\xffs\":\"x\",\"os\":\"y\"}", "y"),
    ] {
        assert_eq!(os(document), Some(json!(expected)), "{document:?}");
    }
    assert_eq!(os(b"{\"os\":\"x\"\xff}"), None);
    assert_eq!(os(b"\xef\xbb\xbf{\"os\":\"x\"}"), None);
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("\\PC{0,6}", 0..4)
}

proptest! {
    /// The same configuration with its keys in any case and order, `null` for what is empty, and
    /// unknown fields of any type.
    #[test]
    fn case_order_nulls_and_unknown_fields_make_no_difference(
        (env, entrypoint, cmd) in (texts(), texts(), texts()),
        (user, dir) in ("\\PC{0,6}", "\\PC{0,6}"),
        cases in proptest::collection::vec(any::<bool>(), 40),
        is_reversed in any::<bool>(),
    ) {
        let mut next = cases.iter().cycle();
        let mut cased = |name: &str| -> String {
            let letter = |c: char| match next.next() {
                Some(true) => c.to_ascii_uppercase(),
                _ => c.to_ascii_lowercase(),
            };
            name.chars().map(letter).collect()
        };
        let value = |value: Value| match value == json!([]) || value == json!("") {
            true => Value::Null,
            false => value,
        };
        let mut fields: Vec<(String, Value)> = vec![
            (cased("Env"), value(json!(env))),
            (cased("Entrypoint"), value(json!(entrypoint))),
            (cased("Cmd"), value(json!(cmd))),
            (cased("User"), value(json!(user))),
            (cased("WorkingDir"), value(json!(dir))),
            ("Healthcheck".into(), json!({ "Test": 5, "Cmd": ["no"] })),
            ("\u{130}".into(), json!([[[null]]])),
        ];
        if is_reversed {
            fields.reverse();
        }
        let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        let document = format!("{{{}:{{{}}}}}", json!(cased("config")), fields.join(","));
        let read: Configuration = from_slice(document.as_bytes()).unwrap();
        let expected = ImageConfig { env, entrypoint, cmd, user, working_dir: dir, stop_signal: None };
        prop_assert_eq!(read.config, expected);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[\\\\u{}\"d8cf0:]{0,40}") {
        let _ = read(&bytes);
        let _ = read(text.as_bytes());
    }
}
