//! Text from elsewhere (registries, archives, image names) for a terminal: nothing in it may
//! control the terminal or change how the rest of the line reads.

use std::borrow::Cow;

/// `text` with control characters and those that change the direction of text escaped, such as
/// `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// Like [`line`] for text of several lines: line feeds and tabs are kept.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| {
        !matches!(character, '\n' | '\t') && is_control(character)
    })
}

/// The controls of Unicode (general category Cc), line and paragraph separators, and the explicit
/// directional formatting characters of UAX #9.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_escaped(character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_controls_the_terminal() {
        assert_eq!(
            line("caf\u{e9} \u{1f600} a\\b \"c\""),
            "caf\u{e9} \u{1f600} a\\b \"c\""
        );
        assert_eq!(
            line("a\x1b[2J\r\nb\u{9b}\u{7f}\u{202e}"),
            "a\\u{1b}[2J\\r\\nb\\u{9b}\\u{7f}\\u{202e}"
        );
        assert_eq!(lines("a\tb\nc\x1b"), "a\tb\nc\\u{1b}");
        assert!(matches!(lines("a\n"), Cow::Borrowed(_)));
    }
}
