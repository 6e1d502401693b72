//! Configuration fragments: what is asked of a kernel's configuration, and whether it came true.
//!
//! The format is that of `.config` (Documentation/kbuild/kconfig.rst): `CONFIG_NAME=value`, or
//! `# CONFIG_NAME is not set`. `CONFIG_NAME=n` means the latter. All else after a `#` is comment.

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

/// What a line of `.config` says of an option that is off, around its name.
const OFF: (&str, &str) = ("# ", " is not set");

/// The longest name of an option that is taken, in bytes. The kernel's longest has 50.
const MAX_NAME: usize = 200;

/// Options by name, with their values as text; `n` is off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fragment {
    options: BTreeMap<String, String>,
}

/// A line that is neither option nor comment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Counted from 1.
    pub(crate) number: usize,
    /// Its text.
    pub(crate) text: String,
}

/// An option that came out otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Its name with `CONFIG_`.
    pub(crate) option: String,
    /// What was asked for.
    pub(crate) asked: String,
    /// What the configuration has.
    pub(crate) got: String,
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

    /// Reads a fragment; of two lines for one option the later counts.
    pub(crate) fn parse(text: &str) -> Result<Fragment, BadLine> {
        let mut options = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            match option(line) {
                Line::Option(name, value) => {
                    options.insert(name.to_owned(), value.to_owned());
                }
                Line::Nothing => {}
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

    /// Adds `more`, whose values count where both have one.
    pub(crate) fn extend(&mut self, more: Fragment) {
        self.options.extend(more.options);
    }

    /// As text in one form, whatever order and comments it was read from: what a key is made of and
    /// what `KCONFIG_ALLCONFIG` names.
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

    /// The first option, by name, that `config`, a whole `.config`, does not have as asked. An
    /// option that is off and one that the configuration does not know are the same: a kernel
    /// cannot have what it does not know.
    pub(crate) fn dropped(&self, config: &str) -> Option<Dropped> {
        let is: BTreeMap<_, _> = config
            .lines()
            .filter_map(|line| match option(line) {
                Line::Option(name, value) => Some((name, value)),
                _ => None,
            })
            .collect();
        let of = |name: &String| is.get(name.as_str()).copied().unwrap_or("n");
        let mut wrong = self
            .options
            .iter()
            .filter(|(name, asked)| of(name) != *asked);
        wrong.next().map(|(name, asked)| Dropped {
            option: name.clone(),
            asked: asked.clone(),
            got: of(name).to_owned(),
        })
    }
}

enum Line<'a> {
    Option(&'a str, &'a str),
    Nothing,
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
        return Line::Nothing;
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

/// `y`, `m`, `n`, a number, or a string in quotes without any inside.
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
    fn the_later_of_two_lines_counts_and_order_and_comments_do_not() {
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
    fn a_line_that_is_neither_is_named() {
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
    fn what_did_not_come_true_is_named() {
        let config = "CONFIG_A=y\nCONFIG_N=64\n# CONFIG_OFF is not set\nCONFIG_S=\"x\"\n";
        let dropped = |text: &str| {
            let dropped = fragment(text).dropped(config);
            dropped.map(|d| format!("{} {} {}", d.option, d.asked, d.got))
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
    fn our_own_fragment_is_one_and_says_nothing_twice() {
        let text = MICROVM;
        let lines = text
            .lines()
            .filter(|line| matches!(option(line), Line::Option(..)));
        assert_eq!(lines.count(), fragment(text).options.len());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_reads_the_same_again(text in "(#? ?CONFIG_[A-Z]{0,3}[ =a-z0-9\"]{0,12}\n|\\PC{0,20}\n){0,8}") {
            if let Ok(read) = Fragment::parse(&text) {
                prop_assert_eq!(&fragment(&read.text()), &read);
                prop_assert_eq!(read.dropped(&read.text()), None);
            }
        }
    }
}
