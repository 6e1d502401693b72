//! Reads manifests of newer releases: fields that this one does not know are left out.

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{IntoDeserializer, Visitor};
use serde_json::{Error, Value};

/// A document of which each structure gets only the fields that it has.
pub struct Tolerant(pub Value);

impl<'de> IntoDeserializer<'de, Error> for Tolerant {
    type Deserializer = Tolerant;

    fn into_deserializer(self) -> Tolerant {
        self
    }
}

impl<'de> Deserializer<'de> for Tolerant {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(entries) => {
                let entries = entries.into_iter().map(Tolerant);
                visitor.visit_seq(SeqDeserializer::new(entries))
            }
            Value::Object(fields) => {
                let fields = fields.into_iter();
                let fields = fields.map(|(name, value)| (name, Tolerant(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Value::Object(fields) = &mut self.0 {
            fields.retain(|name, _| known.contains(&name.as_str()));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Spec, SpecError};

    #[test]
    fn fields_of_newer_releases_are_left_out_and_mistakes_are_not() {
        let known = Spec::from_yaml(
            "{name: a, env: {mood: good}, entrypoint: [ls], network: {mode: nat, forwards: [{hostPort: 1, guestPort: 2}]},
              health: {exec: [ls]}, files: [{src: /a, dst: /a, mode: '0644'}], disks: [{name: d, path: /d, mountpoint: /d}],
              recorded: {runtimeId: r, createdAt: t, memoryMiB: 1, cpuCount: 1, rootfs: x, initramfs: x, bundles: [], argv: [],
                         kernel: {digest: x}, image: {reference: i, resolved: i, digest: i, env: [A=1], workingDir: /, user: ''}}}",
        )
        .unwrap();
        let json = known.to_json();
        assert_eq!(Spec::from_manifest(&json).unwrap(), known);
        // Into each structure, but not into `env`, whose fields are the user's.
        let newer = json
            .replace("{\n", "{ \"mood\": {\"a\": [1, null]},\n")
            .replace("\"env\": { \"mood\": {\"a\": [1, null]},", "\"env\": {");
        assert_eq!(newer.matches("[1, null]").count(), 9, "{newer}");
        assert_eq!(Spec::from_manifest(&newer).unwrap(), known);
        let strict: SpecError = Spec::from_json(&newer).unwrap_err();
        assert!(strict.message.starts_with("unknown field \"mood\""));
        for damaged in [
            newer.replace("\"nat\"", "\"mesh\""),
            newer.replace("\"runtimeId\"", "\"identity\""),
            newer.replace("\"hostPort\": 1", "\"hostPort\": \"one\""),
            newer[..newer.len() - 3].to_owned(),
        ] {
            assert!(Spec::from_manifest(&damaged).is_err(), "{damaged}");
        }
    }
}
