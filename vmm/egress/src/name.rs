//! Host names in the one form in which they are compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The maximum length of a name, without the trailing dot (RFC 1035).
const MAX_NAME: usize = 253;
/// The maximum length of a label.
const MAX_LABEL: usize = 63;

/// A host name: ASCII, lower case, without a trailing dot.
///
/// Parsing a `str` converts Unicode names to punycode (UTS 46).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no text.
    #[error("the host name is empty")]
    Empty,
    /// More than 253 characters.
    #[error("the host name is longer than 253 characters")]
    TooLong,
    /// Two dots in a row, or a leading one.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label of more than 63 characters.
    #[error("a label of the host name is longer than 63 characters")]
    LabelTooLong,
    /// Something other than letters, digits, `-` and `_`.
    #[error("the host name contains {0:?}")]
    Character(char),
    /// A label begins or ends with a hyphen.
    #[error("a label of the host name begins or ends with a hyphen")]
    Hyphen,
    /// The last label is a number, as in an IPv4 address.
    #[error("the last label is a number, so this is not a host name")]
    Numeric,
    /// UTS 46 does not allow it.
    #[error("it is not a valid internationalised host name")]
    Unicode,
}

impl Name {
    /// Normalises a name that is ASCII already, as in a DNS message or a TLS ClientHello.
    pub fn from_ascii(text: &[u8]) -> Result<Self, NameError> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        check(text)?;
        let text: String = text
            .iter()
            .map(|byte| char::from(byte.to_ascii_lowercase()))
            .collect();
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of labels.
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }

    /// Whether the name is a subdomain of `parent`, at any depth.
    pub fn is_below(&self, parent: &Name) -> bool {
        self.0
            .strip_suffix(&*parent.0)
            .is_some_and(|rest| rest.ends_with('.'))
    }
}

fn check(text: &[u8]) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    let mut last: &[u8] = &[];
    for label in text.split(|byte| *byte == b'.') {
        let (Some(first), Some(end)) = (label.first(), label.last()) else {
            return Err(NameError::EmptyLabel);
        };
        if label.len() > MAX_LABEL {
            return Err(NameError::LabelTooLong);
        }
        let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if let Some(byte) = label.iter().find(|byte| !is_valid(byte)) {
            return Err(NameError::Character(char::from(*byte)));
        }
        if *first == b'-' || *end == b'-' {
            return Err(NameError::Hyphen);
        }
        last = label;
    }
    // Resolvers take such names for addresses, also in hexadecimal (inet_aton).
    let is_number = last.iter().all(u8::is_ascii_digit)
        || last
            .strip_prefix(b"0x")
            .or(last.strip_prefix(b"0X"))
            .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if is_number {
        return Err(NameError::Numeric);
    }
    Ok(())
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_ascii() {
            return Self::from_ascii(text.as_bytes());
        }
        // The conversion takes longer than linear time, so the length is limited before it.
        if text.chars().count() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| NameError::Unicode)?;
        Self::from_ascii(ascii.as_bytes())
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, normal) in [
            ("pypi.org", "pypi.org"),
            ("PyPI.Org.", "pypi.org"),
            ("_sip._tcp.Example.com", "_sip._tcp.example.com"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("BÜCHER。Example", "xn--bcher-kva.example"),
            ("straße.de", "xn--strae-oqa.de"),
            ("registry", "registry"),
            ("1.example.2a", "1.example.2a"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), normal, "{text}");
        }
    }

    #[test]
    fn invalid_names_have_a_reason() {
        let label = "a".repeat(64);
        let long = "abcdefg.".repeat(32);
        for (text, why) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("..", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            (&label, NameError::LabelTooLong),
            (&long, NameError::TooLong),
            ("a b", NameError::Character(' ')),
            ("a*b.c", NameError::Character('*')),
            ("a\0.c", NameError::Character('\0')),
            ("-a.b", NameError::Hyphen),
            ("a-.b", NameError::Hyphen),
            ("10.0.0.1", NameError::Numeric),
            ("10.0.0.0x1F", NameError::Numeric),
            ("a\u{ffff}.b", NameError::Unicode),
        ] {
            assert_eq!(text.parse::<Name>(), Err(why), "{text}");
        }
        let longest = long[..253].trim_end_matches('.').to_owned();
        assert_eq!(
            (longest.len(), longest.parse::<Name>().is_ok()),
            (253, true)
        );
        assert_eq!(
            format!("{longest}h").parse::<Name>(),
            Err(NameError::TooLong)
        );
    }

    #[test]
    fn a_suffix_matches_whole_labels_at_any_depth() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let parent = name("debian.org");
        assert!(name("deb.debian.org").is_below(&parent));
        assert!(name("a.b.debian.org").is_below(&parent));
        assert!(!name("debian.org").is_below(&parent));
        assert!(!name("notdebian.org").is_below(&parent));
        assert!(!name("debian.org.evil.example").is_below(&parent));
    }
}
