//! File permissions.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// File permissions, 0 to 0o7777: a string of octal digits in a document. A number is refused:
/// `0644` is 644 in YAML 1.2 and 420 in YAML 1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Serialize for FileMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileMode, D::Error> {
        struct Digits;

        impl serde::de::Visitor<'_> for Digits {
            type Value = FileMode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("three or four octal digits in quotes, as in \"0644\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FileMode, E> {
                let invalid = || E::invalid_value(Unexpected::Str(text), &self);
                let digits = text.bytes().all(|byte| (b'0'..b'8').contains(&byte));
                if !digits || !(3..=4).contains(&text.len()) {
                    return Err(invalid());
                }
                u32::from_str_radix(text, 8)
                    .map(FileMode)
                    .map_err(|_| invalid())
            }
        }

        deserializer.deserialize_any(Digits)
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> Cow<'static, str> {
        "FileMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-7]{3,4}$" })
    }
}
