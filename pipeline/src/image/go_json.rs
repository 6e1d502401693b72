//! Decodes JSON as Go's `encoding/json` decodes it into a struct. The documents of images are
//! written and read by Go programs, and serde's rules differ from Go's in many documents that
//! exist:
//!
//! | in the document | Go |
//! |---|---|
//! | a key in another case | names the field, unless another field has exactly this name; `K` (U+212A) and `ſ` (U+017F) equal `k` and `s` |
//! | `null` | a list, map or optional value becomes empty; any other value remains as it is |
//! | a key again | scalars are replaced, structs and maps are merged, elements of a list are decoded into the earlier ones |
//! | an unknown key | is skipped, whatever its value |
//! | a value of another type | is an error |
//! | a byte that is not UTF-8, half of a surrogate pair | is U+FFFD |
//!
//! (Rules: the documentation of `json.Unmarshal`.) Only the depth differs: Go accepts 10000 levels
//! in a known field, but no type here has more than six.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny};
use serde::de::{MapAccess, SeqAccess, Visitor};

/// A value that is decoded into its previous content.
pub(crate) trait Decode: Default {
    /// Decodes `input` into `self`.
    ///
    /// # Errors
    /// When the input is not JSON or has another type. `self` may then be changed.
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error>;
}

/// A Go struct.
pub(crate) trait Fields: Default {
    /// The names of its fields in JSON.
    const NAMES: &'static [&'static str];

    /// Decodes the field with this name, which is one of [`Fields::NAMES`].
    ///
    /// # Errors
    /// As [`Decode::decode`].
    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error>;
}

/// Decodes a document.
///
/// # Errors
/// When Go would report one.
pub(crate) fn from_slice<T: Decode>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let text = repaired(bytes);
    let mut input = serde_json::Deserializer::from_str(&text);
    let mut value = T::default();
    value.decode(&mut input)?;
    input.end()?;
    Ok(value)
}

/// The document as text that is valid UTF-8 and has no half of a surrogate pair.
fn repaired(bytes: &[u8]) -> Cow<'_, str> {
    const REPLACEMENT: &str = "\u{fffd}";
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut text = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                // Go replaces each byte, not each sequence.
                text.extend(chunk.invalid().iter().map(|_| REPLACEMENT));
            }
            Cow::Owned(text)
        }
    };
    let halves = lone_surrogates(&text);
    if halves.is_empty() {
        return text;
    }
    let mut whole = String::with_capacity(text.len());
    let mut from = 0;
    for at in halves {
        whole.push_str(&text[from..at]);
        whole.push_str("\\ufffd");
        from = at + ESCAPE_LEN;
    }
    whole.push_str(&text[from..]);
    Cow::Owned(whole)
}

/// The length of `\uXXXX`.
const ESCAPE_LEN: usize = 6;

/// The offsets of escapes of half a surrogate pair.
fn lone_surrogates(text: &str) -> Vec<usize> {
    let unit = |at: usize| {
        let digits = text.get(at..at + ESCAPE_LEN)?.strip_prefix("\\u")?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex
            .then(|| u16::from_str_radix(digits, 16).ok())
            .flatten()
    };
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find('\\') {
        at += next;
        at += match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + ESCAPE_LEN), Some(0xdc00..=0xdfff)) => {
                2 * ESCAPE_LEN
            }
            Some(0xd800..=0xdfff) => {
                found.push(at);
                ESCAPE_LEN
            }
            Some(_) => ESCAPE_LEN,
            // A backslash and the character that it escapes.
            None => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    found
}

/// The field that a key names: the one with exactly this name, else one that differs only in case.
fn field_named(names: &'static [&'static str], key: &str) -> Option<&'static str> {
    let exact = names.iter().find(|name| **name == key);
    let folded = || names.iter().find(|name| is_same_folded(name, key));
    exact.or_else(folded).copied()
}

fn is_same_folded(name: &str, key: &str) -> bool {
    let fold = |character: char| match character {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

/// Decodes the next value of a list or map into this one.
struct Target<'a, T>(&'a mut T);

impl<'de, T: Decode> DeserializeSeed<'de> for Target<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.0.decode(input)
    }
}

/// Decodes the next value into a field.
struct FieldTarget<'a, T> {
    of: &'a mut T,
    name: &'static str,
}

impl<'de, T: Fields> DeserializeSeed<'de> for FieldTarget<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.of.field(self.name, input)
    }
}

struct StructVisitor<'a, T>(&'a mut T);

impl<'de, T: Fields> Visitor<'de> for StructVisitor<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match field_named(T::NAMES, &key) {
                Some(name) => map.next_value_seed(FieldTarget { of: self.0, name })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<T: Fields> Decode for T {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(StructVisitor(self))
    }
}

impl Decode for String {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        struct Text<'a>(&'a mut String);
        impl Visitor<'_> for Text<'_> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_unit<E>(self) -> Result<(), E> {
                Ok(())
            }
            fn visit_str<E>(self, text: &str) -> Result<(), E> {
                text.clone_into(self.0);
                Ok(())
            }
        }
        input.deserialize_any(Text(self))
    }
}

impl Decode for bool {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        if let Some(value) = Option::deserialize(input)? {
            *self = value;
        }
        Ok(())
    }
}

impl Decode for i64 {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        if let Some(value) = Option::deserialize(input)? {
            *self = value;
        }
        Ok(())
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        struct Pointer<'a, T>(&'a mut Option<T>);
        impl<'de, T: Decode> Visitor<'de> for Pointer<'_, T> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or null")
            }
            fn visit_none<E>(self) -> Result<(), E> {
                *self.0 = None;
                Ok(())
            }
            fn visit_unit<E: Error>(self) -> Result<(), E> {
                self.visit_none()
            }
            fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
                self.0.get_or_insert_default().decode(input)
            }
        }
        input.deserialize_option(Pointer(self))
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        struct List<'a, T>(&'a mut Vec<T>);
        impl<'de, T: Decode> Visitor<'de> for List<'_, T> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_unit<E>(self) -> Result<(), E> {
                self.0.clear();
                Ok(())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
                let mut count = 0;
                loop {
                    let mut fresh = T::default();
                    let earlier = self.0.get_mut(count);
                    let is_earlier = earlier.is_some();
                    let target = Target(earlier.unwrap_or(&mut fresh));
                    if list.next_element_seed(target)?.is_none() {
                        break;
                    }
                    if !is_earlier {
                        self.0.push(fresh);
                    }
                    count += 1;
                }
                self.0.truncate(count);
                Ok(())
            }
        }
        input.deserialize_any(List(self))
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        struct Map<'a, T>(&'a mut BTreeMap<String, T>);
        impl<'de, T: Decode> Visitor<'de> for Map<'_, T> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> Result<(), E> {
                self.0.clear();
                Ok(())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                while let Some(key) = map.next_key()? {
                    let mut value = T::default();
                    map.next_value_seed(Target(&mut value))?;
                    self.0.insert(key, value);
                }
                Ok(())
            }
        }
        input.deserialize_any(Map(self))
    }
}

/// Go's `struct{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Empty;

impl Fields for Empty {
    const NAMES: &'static [&'static str] = &[];

    fn field<'de, D: Deserializer<'de>>(&mut self, _: &str, input: D) -> Result<(), D::Error> {
        IgnoredAny::deserialize(input).map(drop)
    }
}

/// Whether there is a value other than `null`, of any type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Present(pub(crate) bool);

impl Decode for Present {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        self.0 = Option::<IgnoredAny>::deserialize(input)?.is_some();
        Ok(())
    }
}

/// Go's `time.Time`: nothing of it is kept, but an invalid one is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Time;

impl Decode for Time {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        match Option::<String>::deserialize(input)? {
            Some(text) if !time::is_valid(&text) => Err(Error::custom(format_args!(
                "{text:?} is not a time as in RFC 3339"
            ))),
            _ => Ok(()),
        }
    }
}

mod time;

#[cfg(test)]
mod tests;
