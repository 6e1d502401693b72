//! The command of a workspace.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a workspace runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrypoint {
    /// A command line for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments; not empty.
    Argv(Vec<String>),
}

impl Entrypoint {
    /// The arguments to execute.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Entrypoint::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
            Entrypoint::Argv(words) => words.clone(),
        }
    }
}

impl Serialize for Entrypoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Entrypoint::Shell(line) => line.serialize(serializer),
            Entrypoint::Argv(words) => words.serialize(serializer),
        }
    }
}

// By hand: the error of a derived untagged enum says only that no variant matches.
impl<'de> Deserialize<'de> for Entrypoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entrypoint, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Entrypoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shell command, or a list of arguments that is not empty")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Entrypoint, E> {
                if line.is_empty() {
                    return Err(E::invalid_value(serde::de::Unexpected::Str(line), &self));
                }
                Ok(Entrypoint::Shell(line.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entrypoint, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                if words.is_empty() {
                    return Err(serde::de::Error::invalid_length(0, &self));
                }
                Ok(Entrypoint::Argv(words))
            }
        }

        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for Entrypoint {
    fn schema_name() -> Cow<'static, str> {
        "Entrypoint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "type": "string", "minLength": 1, "description": "A command line for /bin/sh -c." },
                {
                    "type": "array",
                    "items": { "type": "string" },
                    "minItems": 1,
                    "description": "A program and its arguments.",
                },
            ]
        })
    }
}
