//! The targets of redirects, and other URLs that servers name.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use ureq::Body;
use ureq::http::{Response, Uri};

/// The maximum number of redirects of one request, as in Go.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// The characters that are not valid in a URL (RFC 3986, section 2); servers send them.
const INVALID: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A URL with its invalid characters percent-encoded, as other clients send them.
pub(crate) fn encoded(url: &[u8]) -> Cow<'_, str> {
    percent_encode(url, INVALID).into()
}

/// The target of a redirect, as the response has it.
pub(crate) fn redirection(response: &Response<Body>) -> Option<Cow<'_, str>> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => {
            let location = response.headers().get("Location")?.as_bytes().trim_ascii();
            Some(encoded(location)).filter(|location| !location.is_empty())
        }
        _ => None,
    }
}

/// Resolves a `Location` relative to `base` (RFC 9110, section 10.2.2; RFC 3986, section 5.2).
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or(location);
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_absolute = (location.split_once("://")).is_some_and(|(scheme, _)| is_scheme(scheme));
    let whole = if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else {
        let (path, query) = match location.find('?') {
            Some(at) => location.split_at(at),
            None => (location, ""),
        };
        let path = match path {
            "" if query.is_empty() => base.path_and_query()?.as_str().to_owned(),
            "" => base.path().to_owned(),
            path if path.starts_with('/') => without_dots(path),
            path => {
                let parent = base
                    .path()
                    .rsplit_once('/')
                    .map_or("", |(parent, _)| parent);
                without_dots(&format!("{parent}/{path}"))
            }
        };
        format!("{scheme}://{authority}{path}{query}")
    };
    whole.parse().ok()
}

/// A path without its segments `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            // The first segment is what precedes the first slash.
            ".." if out.len() > 1 => drop(out.pop()),
            ".." => {}
            segment => {
                out.push(segment);
                continue;
            }
        }
        if is_last {
            out.push("");
        }
    }
    out.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_location_is_resolved_relative_to_its_base() {
        let base: Uri = "https://reg.example:5000/v2/a/blobs/x?y=1".parse().unwrap();
        let joined = |location| join(&base, location).map(|url| url.to_string());
        for (location, expected) in [
            ("http://s.example/b?c=d#e", "http://s.example/b?c=d"),
            ("//s.example/b", "https://s.example/b"),
            ("/v2/b", "https://reg.example:5000/v2/b"),
            ("/v2/b?to=a://c", "https://reg.example:5000/v2/b?to=a://c"),
            ("z", "https://reg.example:5000/v2/a/blobs/z"),
            ("./z/.", "https://reg.example:5000/v2/a/blobs/z/"),
            ("../z?../w", "https://reg.example:5000/v2/a/z?../w"),
            ("../../../../z/..", "https://reg.example:5000/"),
            ("/a/../b/./c", "https://reg.example:5000/b/c"),
            ("?z", "https://reg.example:5000/v2/a/blobs/x?z"),
            ("#z", "https://reg.example:5000/v2/a/blobs/x?y=1"),
        ] {
            assert_eq!(joined(location).as_deref(), Some(expected));
        }
        assert_eq!(joined("http://a b/"), None);
    }

    #[test]
    fn invalid_characters_are_encoded() {
        let location = [b"/x?a={b}|\"c\"\\^`<>[] %41%4 \xe9\t", "é".as_bytes()].concat();
        let text = encoded(&location);
        assert_eq!(
            text,
            "/x?a=%7Bb%7D%7C%22c%22%5C%5E%60%3C%3E[]%20%41%4%20%E9%09%C3%A9"
        );
        let base: Uri = "http://reg.example/".parse().unwrap();
        let expected = format!("http://reg.example{text}");
        assert_eq!(join(&base, &text).unwrap().to_string(), expected);
    }

    proptest! {
        #[test]
        fn no_location_causes_a_panic(location in "[ -~]{0,40}|[./a?#]{0,12}") {
            let base: Uri = "https://reg.example/v2/".parse().unwrap();
            let _ = join(&base, &location);
            let _ = join(&base, &encoded(location.as_bytes()));
        }
    }
}
