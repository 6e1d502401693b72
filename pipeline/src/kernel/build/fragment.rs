//! Configuration fragments: requested options, and the check that a configuration has them.
//!
//! The format is that of `.config` (Documentation/kbuild/kconfig.rst): `CONFIG_NAME=value`, or
//! `# CONFIG_NAME is not set`, which is the same as `CONFIG_NAME=n`. Other lines with a leading `#`
//! are comments.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use super::error::{KernelBuildError, file};

/// The options of the guest kernel, each with its reason.
const MICROVM: &str = include_str!("microvm.config");

/// The maximum size of a fragment, in bytes. A distribution's complete `.config` has 300 KiB.
const MAX_FRAGMENT: u64 = 4 << 20;

/// Prefix and suffix of the name in a `.config` line for a disabled option.
const OFF: (&str, &str) = ("# ", " is not set");

/// Maximum length of an option's name in bytes. The longest name in the kernel has 50.
const MAX_NAME: usize = 200;

/// Options and their values as text; `n` means disabled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    options: BTreeMap<String, String>,
}

/// A line that is neither an option nor a comment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Counted from 1.
    pub(crate) number: usize,
    /// Its text.
    pub(crate) text: String,
}

/// An option whose value in the configuration differs from the requested one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Its name with `CONFIG_`.
    pub(crate) option: String,
    /// The requested value.
    pub(crate) requested: String,
    /// The value in the configuration.
    pub(crate) actual: String,
}

impl Fragment {
    /// The built-in fragment, overridden by the one at `path`.
    pub(crate) fn with_file(path: Option<&Path>) -> Result<Fragment, KernelBuildError> {
        let parse = |name: String, text: &str| {
            Fragment::parse(text).map_err(|line| KernelBuildError::BadFragment {
                name,
                number: line.number,
                text: line.text,
            })
        };
        let mut fragment = parse("microvm.config".to_owned(), MICROVM)?;
        if let Some(path) = path {
            let size = fs::metadata(path).map_err(file("read", path))?.len();
            let text = match size {
                size if size > MAX_FRAGMENT => Err(io::ErrorKind::FileTooLarge.into()),
                _ => fs::read_to_string(path),
            };
            let text = text.map_err(file("read", path))?;
            fragment.extend(parse(path.display().to_string(), &text)?);
        }
        Ok(fragment)
    }

    /// Parses a fragment. A later line for the same option overrides an earlier one.
    pub(crate) fn parse(text: &str) -> Result<Fragment, BadLine> {
        let mut options = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            match option(line) {
                Line::Option(name, value) => {
                    options.insert(name.to_owned(), value.to_owned());
                }
                Line::Blank => {}
                Line::Bad => {
                    return Err(BadLine {
                        number: index + 1,
                        text: line.chars().take(MAX_NAME).collect(),
                    });
                }
            }
        }
        Ok(Fragment { options })
    }

    /// Adds `more`, whose values override existing ones.
    pub(crate) fn extend(&mut self, more: Fragment) {
        self.options.extend(more.options);
    }

    /// The canonical text, sorted and without comments: an input of the node's key, and the content
    /// of the file for `KCONFIG_ALLCONFIG`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.options {
            // Writing to a String does not fail.
            let _ = match value.as_str() {
                "n" => writeln!(text, "{}{name}{}", OFF.0, OFF.1),
                _ => writeln!(text, "{name}={value}"),
            };
        }
        text
    }

    /// The first option, by name, whose value in the complete `.config` `config` differs from the
    /// requested one. A missing option is the same as a disabled one.
    pub(crate) fn dropped(&self, config: &str) -> Option<Dropped> {
        let values: BTreeMap<_, _> = config
            .lines()
            .filter_map(|line| match option(line) {
                Line::Option(name, value) => Some((name, value)),
                _ => None,
            })
            .collect();
        let actual = |name: &String| values.get(name.as_str()).copied().unwrap_or("n");
        let mut different = self
            .options
            .iter()
            .filter(|(name, requested)| actual(name) != *requested);
        different.next().map(|(name, requested)| Dropped {
            option: name.clone(),
            requested: requested.clone(),
            actual: actual(name).to_owned(),
        })
    }
}

enum Line<'a> {
    Option(&'a str, &'a str),
    Blank,
    Bad,
}

fn option(line: &str) -> Line<'_> {
    let line = line.trim();
    let off = line
        .strip_prefix(OFF.0)
        .and_then(|rest| rest.strip_suffix(OFF.1));
    if let Some(name) = off.filter(|name| is_name(name)) {
        return Line::Option(name, "n");
    }
    if line.is_empty() || line.starts_with('#') {
        return Line::Blank;
    }
    match line.split_once('=') {
        Some((name, value)) if is_name(name) && is_value(value) => Line::Option(name, value),
        _ => Line::Bad,
    }
}

fn is_name(text: &str) -> bool {
    let rest = text.strip_prefix("CONFIG_").unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !rest.is_empty() && text.len() <= MAX_NAME && rest.bytes().all(fits)
}

/// `y`, `m`, `n`, a number, or a quoted string without inner quotes, backslashes and control
/// characters.
fn is_value(text: &str) -> bool {
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let number = text.strip_prefix("0x").unwrap_or(text);
    match quoted {
        Some(inner) => !inner.contains(['"', '\\']) && !inner.contains(char::is_control),
        None => {
            matches!(text, "y" | "m" | "n")
                || (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(text: &str) -> Fragment {
        Fragment::parse(text).unwrap()
    }

    #[test]
    fn later_lines_override_and_order_and_comments_do_not_matter() {
        let mut base = fragment("# a comment\nCONFIG_B=y\n\nCONFIG_A=7\n# CONFIG_C is not set\n");
        assert_eq!(
            base.text(),
            "CONFIG_A=7\nCONFIG_B=y\n# CONFIG_C is not set\n"
        );
        base.extend(fragment(
            "CONFIG_C=y\nCONFIG_B=y\nCONFIG_B=n\nCONFIG_D=\"x y\"",
        ));
        assert_eq!(
            base.text(),
            "CONFIG_A=7\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D=\"x y\"\n"
        );
    }

    #[test]
    fn an_invalid_line_is_reported() {
        for text in [
            "CONFIG_A",
            "FOO=y",
            "CONFIG_=y",
            "CONFIG_A=yes",
            "CONFIG_A=\"",
            "CONFIG_A-B=y",
            "CONFIG_A=\"a\\\"",
            "CONFIG_A=0x",
            "CONFIG_A=$(shell id)",
        ] {
            let bad = Fragment::parse(&format!("# first\n{text}\n")).unwrap_err();
            assert_eq!((bad.number, bad.text.as_str()), (2, text));
        }
    }

    #[test]
    fn an_option_with_a_different_value_is_reported() {
        let config = "CONFIG_A=y\nCONFIG_N=64\n# CONFIG_OFF is not set\nCONFIG_S=\"x\"\n";
        let dropped = |text: &str| {
            let dropped = fragment(text).dropped(config);
            dropped.map(|d| format!("{} {} {}", d.option, d.requested, d.actual))
        };
        assert_eq!(
            dropped("CONFIG_A=y\nCONFIG_N=64\nCONFIG_OFF=n\nCONFIG_S=\"x\"\n"),
            None
        );
        assert_eq!(dropped("# CONFIG_UNKNOWN is not set"), None);
        assert_eq!(dropped("CONFIG_UNKNOWN=y").unwrap(), "CONFIG_UNKNOWN y n");
        assert_eq!(dropped("CONFIG_A=n").unwrap(), "CONFIG_A n y");
        assert_eq!(dropped("CONFIG_N=8").unwrap(), "CONFIG_N 8 64");
        assert_eq!(dropped("CONFIG_OFF=y").unwrap(), "CONFIG_OFF y n");
    }

    #[test]
    fn the_built_in_fragment_is_valid_and_has_no_duplicates() {
        let text = MICROVM;
        let lines = text
            .lines()
            .filter(|line| matches!(option(line), Line::Option(..)));
        assert_eq!(lines.count(), fragment(text).options.len());
    }

    proptest! {
        #[test]
        fn the_canonical_text_of_a_valid_fragment_parses_to_the_same_fragment(text in "(#? ?CONFIG_[A-Z]{0,3}[ =a-z0-9\"]{0,12}\n|\\PC{0,20}\n){0,8}") {
            if let Ok(read) = Fragment::parse(&text) {
                prop_assert_eq!(&fragment(&read.text()), &read);
                prop_assert_eq!(read.dropped(&read.text()), None);
            }
        }
    }
}
