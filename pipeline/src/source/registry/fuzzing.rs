//! Properties of this module's parsers for [`crate::fuzzing`].

use super::challenge::{self, Challenge};
use super::credentials::{Keyring, Lookup, Secret};
use crate::image::reference::RegistryReference;

/// A parsed challenge, formatted according to RFC 9110, parses to the same value.
pub(crate) fn challenge(header: &str) {
    let Some(found) = challenge::parse(header.lines().map(str::as_bytes)) else {
        return;
    };
    let quoted = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    };
    let written = match &found {
        Challenge::Basic => "Basic realm=\"x\"".to_owned(),
        Challenge::Bearer {
            realm,
            service,
            scopes,
        } => {
            let mut text = format!("Bearer realm={}", quoted(realm));
            if let Some(service) = service {
                text += &format!(",service={}", quoted(service));
            }
            text + &format!(",scope={}", quoted(&scopes.join(" ")))
        }
    };
    let again = challenge::parse(std::iter::once(written.as_bytes()));
    assert_eq!(again.as_ref(), Some(&found), "{written}");
}

/// Credentials from any file are valid in a header and do not appear in debug output.
pub(crate) fn auth_file(bytes: &[u8], image: &RegistryReference) {
    let Some(keyring) = Keyring::of_bytes(bytes) else {
        return;
    };
    if let Ok(Lookup::Credentials(credentials)) = keyring.find(image) {
        let shown = format!("{credentials:?}");
        match &credentials.secret {
            Secret::Password(joined) => {
                assert!(joined.bytes().all(|byte| byte.is_ascii_graphic()));
                assert!(joined.len() < 8 || !shown.contains(joined));
            }
            Secret::IdentityToken { token, .. } => assert!(!token.is_empty()),
        }
    }
}
