//! Environment variables of the command line, by docker's rules.
//!
//! - `NAME=VALUE` sets a variable; the value is everything after the first `=`.
//! - `NAME` takes the value that the caller's environment has. If it has none, the variable is not
//!   set for the command either, even if the image sets it.
//! - A file has one of these on each line, without quotes or escapes. Leading white space, empty lines
//!   and lines that begin with `#` are ignored, as is a byte order mark.
//! - What comes later overrides what came before; files come first.

use crate::failure::Failure;

/// The longest line of a file, in bytes, as in docker.
const MAX_LINE: usize = 64 << 10;

/// Variables to set, and to remove from those of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// In the order in which they were first named.
    pub set: Vec<(String, String)>,
    /// Named, but without a value.
    pub unset: Vec<String>,
}

/// Looks up a variable of the caller.
///
/// # Errors
/// When its value is not UTF-8.
pub fn of_caller(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::usage(format!(
            "the value of {name} in the environment is not UTF-8"
        ))
        .remediation(format!("use --env {name}=VALUE"))),
    }
}

impl Variables {
    /// Adds what one `--env` says.
    ///
    /// # Errors
    /// It has no name, or the caller's value cannot be used.
    pub fn add_flag(
        &mut self,
        word: &str,
        caller: impl Fn(&str) -> Result<Option<String>, Failure>,
    ) -> Result<(), Failure> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(Failure::usage("a value of --env has no variable name")
                .remediation("use --env KEY=VALUE"));
        }
        self.put(name, value, caller)
    }

    /// Adds the variables of the file that messages call `shown`. Its content is never in them.
    ///
    /// # Errors
    /// It is not such a file.
    pub fn add_file(
        &mut self,
        shown: &str,
        bytes: &[u8],
        caller: impl Fn(&str) -> Result<Option<String>, Failure>,
    ) -> Result<(), Failure> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (line, number) in bytes.split(|&byte| byte == b'\n').zip(1..) {
            let invalid = |why: &str| {
                Failure::usage(format!("{shown}:{number}: {why}"))
                    .remediation("each line is NAME=VALUE, NAME, or a comment that begins with #")
            };
            if line.len() > MAX_LINE {
                return Err(invalid("the line is longer than 64 KiB"));
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = std::str::from_utf8(line).map_err(|_| invalid("it is not UTF-8"))?;
            let text = text.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            if text.contains('\0') {
                return Err(invalid("it contains a NUL byte"));
            }
            if name.is_empty() {
                return Err(invalid("the variable has no name"));
            }
            if name.contains(char::is_whitespace) {
                return Err(invalid("the name of the variable contains white space"));
            }
            self.put(name, value, &caller)?;
        }
        Ok(())
    }

    /// Whether it names the variable.
    pub fn names(&self, name: &str) -> bool {
        self.set.iter().any(|(set, _)| set == name) || self.unset.iter().any(|unset| unset == name)
    }

    /// Removes the variables without a value from a command's.
    pub fn remove_unset(&self, env: &mut Vec<(String, String)>) {
        if !self.unset.is_empty() {
            env.retain(|(name, _)| !self.unset.contains(name));
        }
    }

    fn put(
        &mut self,
        name: &str,
        value: Option<String>,
        caller: impl Fn(&str) -> Result<Option<String>, Failure>,
    ) -> Result<(), Failure> {
        let value = match value {
            Some(value) => Some(value),
            None => caller(name)?,
        };
        let Some(value) = value else {
            self.set.retain(|(set, _)| set != name);
            if !self.unset.iter().any(|unset| unset == name) {
                self.unset.push(name.to_owned());
            }
            return Ok(());
        };
        self.unset.retain(|unset| unset != name);
        match self.set.iter_mut().find(|(set, _)| set == name) {
            Some((_, set)) => *set = value,
            None => self.set.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str) -> Result<Option<String>, Failure> {
        Ok((name == "HERE").then(|| "caller's".to_owned()))
    }

    fn file(text: &[u8]) -> Result<Variables, Failure> {
        let mut variables = Variables::default();
        variables.add_file("vars", text, caller)?;
        Ok(variables)
    }

    #[test]
    fn a_file_is_read_as_docker_reads_it() {
        let text = b"\xef\xbb\xbfA=1\n# A=2\n\n  \t# x\n  B= two words \r\nC=\nHERE\nABSENT\nD=\"q=\\n\"\n\tA=3";
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = Variables {
            set: vec![
                pair("A", "3"),
                pair("B", " two words "),
                pair("C", ""),
                pair("HERE", "caller's"),
                pair("D", "\"q=\\n\""),
            ],
            unset: vec!["ABSENT".into()],
        };
        assert_eq!(file(text), Ok(expected));
    }

    #[test]
    fn a_line_that_is_none_is_named_without_its_content() {
        let long = [b"A=".as_slice(), &vec![b'x'; MAX_LINE]].concat();
        for (text, message) in [
            (&b"A=1\n=secret\n"[..], "vars:2: the variable has no name"),
            (
                b"my secret=1",
                "vars:1: the name of the variable contains white space",
            ),
            (
                b"NAME ",
                "vars:1: the name of the variable contains white space",
            ),
            (b"A=\0", "vars:1: it contains a NUL byte"),
            (b"A=\xff", "vars:1: it is not UTF-8"),
            (&long, "vars:1: the line is longer than 64 KiB"),
        ] {
            let failure = file(text).unwrap_err();
            assert_eq!(failure.message, message);
            assert_eq!(failure.exit_code(125), 2);
        }
    }

    #[test]
    fn what_comes_later_overrides_and_a_name_without_a_value_is_removed() {
        let mut variables = file(b"A=1\nB=2\nABSENT=3\n").unwrap();
        for word in ["B=x=y", "ABSENT", "A", "HERE", "A=4"] {
            variables.add_flag(word, caller).unwrap();
        }
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            variables.set,
            [pair("B", "x=y"), pair("HERE", "caller's"), pair("A", "4")]
        );
        assert_eq!(variables.unset, ["ABSENT"]);
        let mut env = vec![pair("ABSENT", "image"), pair("C", "image")];
        variables.remove_unset(&mut env);
        assert_eq!(env, [pair("C", "image")]);
        assert!(variables.names("ABSENT") && variables.names("A") && !variables.names("C"));
        assert!(variables.add_flag("=x", caller).is_err());
        assert!(variables.add_flag("", caller).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_files_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = file(&bytes);
        }
    }
}
