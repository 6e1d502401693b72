//! Errors as one line of text.

use std::error::Error;

/// The text of `error` and of its sources, outermost first, joined by `": "`, on one line.
///
/// A source is left out where the text so far already ends with it, and newlines become spaces.
/// Every program of the workspace prints its errors with this function.
///
/// ```
/// # use microagent_proto::error_chain;
/// let invalid = "x".parse::<u8>().unwrap_err();
/// assert_eq!(error_chain(&invalid), "invalid digit found in string");
/// ```
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: Option<Box<Outer>>,
    }

    fn chain(texts: &[&'static str]) -> Option<Box<Outer>> {
        let (text, rest) = texts.split_first()?;
        let source = chain(rest);
        Some(Box::new(Outer { text, source }))
    }

    #[test]
    fn sources_follow_their_error_on_one_line() {
        let text = |texts| error_chain(&*chain(texts).unwrap());
        assert_eq!(text(&["a"]), "a");
        assert_eq!(text(&["a", "b", "c"]), "a: b: c");
        assert_eq!(text(&["a\nb", "c"]), "a b: c");
    }

    #[test]
    fn a_source_that_is_already_in_the_text_is_not_repeated() {
        let text = |texts| error_chain(&*chain(texts).unwrap());
        assert_eq!(text(&["a: b", "b", "c"]), "a: b: c");
        assert_eq!(text(&["a: b: c", "b: c", "c"]), "a: b: c");
        let wrapped = io::Error::other(chain(&["b"]).unwrap());
        assert_eq!(error_chain(&wrapped), "b");
    }
}
