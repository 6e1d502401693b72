//! The text of a bundle: certificates in PEM, one after the other, with anything between them.
//!
//! What the host added is at the end, between two comments, so that it can be replaced. Readers of
//! PEM skip what is outside of its markers.

use std::collections::HashSet;

const SECTION: &[u8] = b"# Added by microagent, replaced at each start\n";
const SECTION_END: &[u8] = b"# End of what microagent added\n";

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// The bundle `text` with these certificates in the section, without those that it has itself.
/// Without any, it has no section.
pub fn with_section(text: &[u8], certificates: &[String]) -> Vec<u8> {
    let mut text = without_sections(text);
    let known: HashSet<Vec<u8>> = bodies(&text).collect();
    let mut section = Vec::new();
    for certificate in certificates {
        let mut own = bodies(certificate.as_bytes());
        if own.all(|body| !known.contains(&body)) {
            section.extend_from_slice(certificate.as_bytes());
        }
    }
    if !section.is_empty() {
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(SECTION);
        text.extend_from_slice(&section);
        text.extend_from_slice(SECTION_END);
    }
    text
}

/// The same without sections. One without an end, which was not written completely, goes to the end.
fn without_sections(mut text: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    while let Some(begin) = find(text, SECTION) {
        let (before, section) = text.split_at(begin);
        kept.extend_from_slice(before);
        let end = find(section, SECTION_END).map_or(section.len(), |at| at + SECTION_END.len());
        text = section.get(end..).unwrap_or_default();
    }
    kept.extend_from_slice(text);
    kept
}

/// The certificates of a bundle: what is between their markers, without white space.
fn bodies(mut text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let body = text.get(find(text, BEGIN)? + BEGIN.len()..)?;
        let end = find(body, END)?;
        text = body.get(end + END.len()..)?;
        let bytes = body.get(..end)?.iter().copied();
        Some(bytes.filter(|byte| !byte.is_ascii_whitespace()).collect())
    })
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    fn text(text: &[u8], certificates: &[String]) -> String {
        String::from_utf8(with_section(text, certificates)).unwrap()
    }

    #[test]
    fn certificates_are_added_once_replaced_and_removed() {
        let image = format!("# An authority\n{}", certificate("MIIB\nAAAA"));
        let (one, two) = (certificate("MIIC"), certificate("MIID"));
        let with_one = text(image.as_bytes(), std::slice::from_ref(&one));
        let added = "# Added by microagent, replaced at each start\n";
        let end = "# End of what microagent added\n";
        assert_eq!(with_one, format!("{image}{added}{one}{end}"));
        assert_eq!(
            text(with_one.as_bytes(), std::slice::from_ref(&one)),
            with_one
        );
        let other = text(with_one.as_bytes(), &[two.clone(), one.clone()]);
        assert_eq!(other, format!("{image}{added}{two}{one}{end}"));
        assert_eq!(text(other.as_bytes(), &[]), image);
        // What the guest appended meanwhile is kept.
        let appended = format!("{with_one}{two}");
        assert_eq!(text(appended.as_bytes(), std::slice::from_ref(&one)), {
            format!("{image}{two}{added}{one}{end}")
        });
        // One that was not written completely.
        let torn = &with_one.as_bytes()[..with_one.len() - 20];
        assert_eq!(text(torn, std::slice::from_ref(&one)), with_one);
    }

    #[test]
    fn a_certificate_that_the_image_has_is_not_added() {
        // Other line lengths, and carriage returns.
        let image = certificate("MI\r\nI\r\nB");
        let own = certificate("MIIB");
        assert_eq!(text(image.as_bytes(), &[own]), image);
        let without_newline = image.trim_end();
        let other = certificate("MIIC");
        let joined = text(without_newline.as_bytes(), std::slice::from_ref(&other));
        assert!(joined.starts_with(&image), "{joined}");
        assert!(joined.contains(&other), "{joined}");
    }

    proptest! {
        #[test]
        fn arbitrary_bundles_do_not_panic_and_are_stable(
            pieces in proptest::collection::vec(
                prop_oneof![
                    Just(SECTION.to_vec()),
                    Just(SECTION_END.to_vec()),
                    Just(BEGIN.to_vec()),
                    Just(END.to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..8),
                ],
                0..12,
            )
        ) {
            let bundle = pieces.concat();
            let own = [certificate("MIIB")];
            let once = with_section(&bundle, &own);
            prop_assert_eq!(with_section(&once, &own), once);
        }
    }
}
