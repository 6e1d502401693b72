//! Parses `WWW-Authenticate` (RFC 9110, section 11.6.1, and `distribution`'s token
//! authentication).

use std::borrow::Cow;

/// The authentication that a registry requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of the server at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        /// Empty if the registry does not specify any.
        scopes: Vec<String>,
    },
    /// User and password.
    Basic,
}

/// Returns the strongest supported challenge. A registry may offer several, in one
/// or in several header lines.
pub(super) fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in values.flat_map(|value| challenges(&text(value))) {
        let get = |name: &str| {
            let found = parameters
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            if let Some(realm) = get("realm") {
                let scopes = get("scope").unwrap_or_default();
                return Some(Challenge::Bearer {
                    realm,
                    service: get("service"),
                    scopes: scopes.split_whitespace().map(str::to_owned).collect(),
                });
            }
        } else if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// The text of a header: UTF-8, or else ISO 8859-1 (RFC 9110, section 5.5).
fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => value.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// What separates parameters and schemes.
const SEPARATORS: [char; 3] = [' ', '\t', ','];

/// Splits `Scheme a=b, c = "d, e", Other f=g`.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut out: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches(SEPARATORS);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let whitespace = [' ', '\t'];
        rest = match after.trim_start_matches(whitespace).strip_prefix('=') {
            Some(value) => {
                let (value, after) = value_of(value.trim_start_matches(whitespace));
                if let Some((_, parameters)) = out.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                after
            }
            None => {
                out.push((word.to_owned(), Vec::new()));
                after
            }
        };
        rest = rest.trim_start_matches(SEPARATORS);
        // A stray `=` would not be consumed otherwise.
        rest = rest.trim_start_matches('=');
    }
    out
}

/// Splits off a token or a quoted string.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(SEPARATORS).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(header: &str) -> Option<Challenge> {
        parse([header.as_bytes()].into_iter())
    }

    #[test]
    fn a_bearer_challenge_is_preferred_and_parsed_completely() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push repository:c:pull""#;
        let expected = Some(Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("reg".into()),
            scopes: vec![
                "repository:a/b:pull,push".into(),
                "repository:c:pull".into(),
            ],
        });
        assert_eq!(one(bearer), expected);
        assert_eq!(one(&format!(r#"Basic realm="x", {bearer}"#)), expected);
        assert_eq!(one(&format!(r#"{bearer}, Basic realm="x""#)), expected);
        let lines = [r#"Basic realm="x""#, "Negotiate", bearer];
        assert_eq!(parse(lines.into_iter().map(str::as_bytes)), expected);
        assert_eq!(one("basic realm=\"a \\\"b\\\"\""), Some(Challenge::Basic));
        assert_eq!(one("Bearer service=x"), None);
        assert_eq!(one("Negotiate"), None);
        assert_eq!(one(""), None);
    }

    #[test]
    fn each_legal_spelling_of_a_challenge_is_read() {
        let bearer = |service: &str| {
            Some(Challenge::Bearer {
                realm: "https://a/t".into(),
                service: Some(service.into()),
                scopes: Vec::new(),
            })
        };
        for header in [
            "bearer realm=\"https://a/t\",service=s",
            "BEARER REALM=https://a/t , SERVICE=\"s\"",
            "Bearer  realm = \"https://a/t\" ,  service\t=\ts",
            "Bearer\trealm=\"https://a/t\",\tservice=\"s\"",
            ", ,Bearer realm=\"https://a/t\",, service=\"s\",",
            "Bearer error=\"invalid_token\",x=\"a, \\\"b\",realm=\"https://a/t\",service=s,scope=\"\"",
            "Negotiate YWJj==, Bearer realm=\"https://a/t\",service=s, Basic",
            "Negotiate YWJj=\t,Bearer realm=\"https://a/t\",service=s",
            "Digest qop=\"auth,auth-int\", opaque=\"\", Bearer realm=\"https://a/t\",service=s",
        ] {
            assert_eq!(one(header), bearer("s"), "{header}");
        }
        let escaped = "Bearer realm=\"https://a/t\",service=\"s\\\"q\\\\\"";
        assert_eq!(one(escaped), bearer("s\"q\\"));
        for name in ["\u{e9}".as_bytes(), b"\xe9"] {
            let header = [b"Bearer realm=\"https://a/t\",service=", name].concat();
            assert_eq!(parse([&header[..]].into_iter()), bearer("\u{e9}"));
        }
    }

    proptest! {
        #[test]
        fn no_header_causes_a_panic(header in "[\t -~é]{0,60}|(a|=|,| |\"|\t){0,20}") {
            let _ = one(&header);
        }
    }
}
