//! Names in the store that must not change: an existing store would be recomputed, or misread.
//!
//! The digests were computed with Python (`json.dumps` with sorted keys and `hashlib`).

use std::os::unix::fs::FileExt;

use microagent_cas::{CHUNK_SIZE, Digest, Input, KeyMaterial, NodeKey, NodeRecord};

use super::{names, store};

fn input(name: &str, content: &[u8]) -> Input {
    Input {
        name: name.into(),
        digest: Digest::of(content),
    }
}

/// The key of op `t` with these parameters, in hex.
fn key_of(params: &str, op_version: u32, platform: Option<&str>) -> String {
    let material = KeyMaterial {
        op: "t",
        op_version,
        params: &serde_json::from_str(params).unwrap(),
        inputs: &[],
        platform,
    };
    NodeKey::derive(&material).digest().hex()
}

#[test]
fn members_are_sorted_at_every_depth() {
    let params = r#"{"z":{"b":1,"a":{"d":[],"c":{}}},"B":2,"_":3,"a":4,"":5,"aa":6,"a-":7}"#;
    assert_eq!(
        key_of(params, 1, None),
        "0c564f2f60742db90bb951a2823c4bed979c76754847629ff2c0eecfbd236d32"
    );
}

/// By code point, where RFC 8785 sorts by UTF-16 unit: U+FFFF is before U+1D11E.
#[test]
fn unicode_is_neither_escaped_nor_normalised_and_sorts_by_code_point() {
    let params =
        r#"{"\u00e9":"\u00fc","e\u0301":"日本語","\ud834\udd1e":"😀","\uffff":"x","~":"ß"}"#;
    assert_eq!(
        key_of(params, 1, Some("linux/arm64")),
        "5de189fda9072bad38c476f71c049c4ecd8a3f998a2a1b2456dba850b68e5722"
    );
}

#[test]
fn only_quotes_backslashes_and_control_characters_are_escaped() {
    let params = r#"{"q\"\\/":"\b\t\n\f\r\u0000\u001f\u007f\u0080\u2028</script>"}"#;
    assert_eq!(
        key_of(params, 1, None),
        "ac71d23004baf68d143d005edce523a842414a1cd331c2d180a3bf19ef8bc170"
    );
}

/// Integers beyond 2^53 keep every digit; RFC 8785 would round them.
#[test]
fn large_integers_are_exact() {
    let params = "[0,-1,9007199254740991,9007199254740992,9007199254740993,\
                  18446744073709551615,-9223372036854775808]";
    assert_eq!(
        key_of(params, u32::MAX, None),
        "09827e0fbb169a34fcd63ff0b711b9e25728422d8c765d276ff371626a8d101d"
    );
    assert_ne!(
        key_of("9007199254740993", 1, None),
        key_of("9007199254740992", 1, None)
    );
}

#[test]
fn inputs_keep_their_order_and_a_subject_its_file() {
    let (_dir, store) = store();
    let inputs = [
        input("layer", b"abc"),
        input("config", b""),
        input("layer", b"abc"),
    ];
    let material = KeyMaterial {
        op: "rootfs",
        op_version: 2,
        params: &serde_json::json!({"sizeMiB": 512}),
        inputs: &inputs,
        platform: Some("linux/amd64"),
    };
    let record = NodeRecord::new(&store, &material, [].into(), 0).unwrap();
    store.record_node(&record).unwrap();
    let key = "8062bb480e6399ac71049501ef6421768e54a30f738f347444880a65fe0023a9";
    assert_eq!(names(&store, "nodes"), [format!("{key}.json")]);

    store
        .set_subject("docker.io/library/busybox:1.36", &record)
        .unwrap();
    let subject = "3ebbcd4a7a007e8761c31cfd559b9c2c4078928bfac36316a702c2f48299c9d4";
    assert_eq!(names(&store, "subjects"), [format!("{subject}.json")]);
}

#[test]
fn a_sparse_file_keeps_its_name() {
    let (_dir, store) = store();
    let scratch = store.scratch().unwrap();
    scratch.file().write_all_at(b"begin", 0).unwrap();
    scratch.file().write_all_at(b"abc", 2 * CHUNK_SIZE).unwrap();
    scratch.commit_sparse().unwrap();
    assert_eq!(
        names(&store, "sparse"),
        ["4bf6fb0383acdf38c6f67fe91cc5b05e22bc4eef05179c5b5bda6e37541dc6db"]
    );
}
