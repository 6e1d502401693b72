//! The targets of redirects.

use ureq::Body;
use ureq::http::{Response, Uri};

/// The maximum number of redirects of one request.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// The target of a redirect, as the response has it.
pub(crate) fn redirection(response: &Response<Body>) -> Option<&str> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get("Location")?.to_str().ok(),
        _ => None,
    }
}

/// Resolves a `Location` relative to `base` (RFC 9110, section 10.2.2).
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or(location).trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_absolute = (location.split_once("://")).is_some_and(|(scheme, _)| is_scheme(scheme));
    let whole = if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base
            .path()
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    whole.parse().ok()
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
        ] {
            assert_eq!(joined(location).as_deref(), Some(expected));
        }
        assert_eq!(joined("http://a b/"), None);
    }

    proptest! {
        #[test]
        fn no_location_causes_a_panic(location in "[ -~]{0,40}") {
            let base: Uri = "https://reg.example/v2/".parse().unwrap();
            let _ = join(&base, &location);
        }
    }
}
