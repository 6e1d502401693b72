//! Canonical JSON: one byte sequence for one value, so that its digest can name it.
//!
//! - no whitespace outside strings;
//! - object members in ascending order of their names' UTF-8 bytes;
//! - strings escape `"`, `\` and the control characters below U+0020 (as `\b \t \n \f \r`, else
//!   `\u00xx` in lower case) and nothing else;
//! - numbers as `serde_json` prints them. Keys should contain integers only: these have a single
//!   form.
//!
//! This differs from RFC 8785 in two points, so its crates cannot replace it: RFC 8785 rounds
//! integers beyond 2^53 to a double, which would give different parameters one key, and it sorts
//! names beyond U+FFFF by UTF-16 unit. `serde_json` cannot either: its member order depends on a
//! feature that any crate can enable.

use serde_json::Value;

/// The canonical bytes of `value`.
pub(crate) fn canonical_json(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                scalar(out, &Value::from(name.as_str()));
                out.push(b':');
                write(out, member);
            }
            out.push(b'}');
        }
        other => scalar(out, other),
    }
}

fn scalar(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(value.to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_members_and_escapes_minimally() {
        let value: Value = serde_json::from_str(
            r#"{ "b" : [1, -2, true, null], "a":"\u00e9\n\u0001/\"", "A":{} }"#,
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(canonical_json(&value)).unwrap(),
            "{\"A\":{},\"a\":\"é\\n\\u0001/\\\"\",\"b\":[1,-2,true,null]}"
        );
    }
}
