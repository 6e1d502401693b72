//! Parses `WWW-Authenticate` (RFC 9110, section 11.6.1, and `distribution`'s token
//! authentication).

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
pub(super) fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in values.flat_map(challenges) {
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

/// Splits `Scheme a=b, c="d, e", Other f=g`.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut out: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = match after.strip_prefix('=') {
            Some(value) => {
                let (value, after) = value_of(value);
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
        rest = rest.trim_start_matches([' ', ',']);
        // A stray `=` would not be consumed otherwise.
        rest = rest.trim_start_matches('=');
    }
    out
}

/// Splits off a token or a quoted string.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
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
        parse([header].into_iter())
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
        assert_eq!(parse(lines.into_iter()), expected);
        assert_eq!(one("basic realm=\"a \\\"b\\\"\""), Some(Challenge::Basic));
        assert_eq!(one("Bearer service=x"), None);
        assert_eq!(one("Negotiate"), None);
        assert_eq!(one(""), None);
    }

    proptest! {
        #[test]
        fn no_header_causes_a_panic(header in "[ -~]{0,60}") {
            let _ = one(&header);
        }
    }
}
