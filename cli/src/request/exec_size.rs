//! Linux's limits on the size of a command and its environment (execve(2)), checked before a VM is
//! booted: the guest's kernel would only say "argument list too long".

use std::collections::HashSet;
use std::fmt;

use microagent_proto::agent::Exec;

use crate::failure::Failure;

/// The maximum length of one argument or variable, in bytes, with the NUL byte that ends it
/// (`MAX_ARG_STRLEN`).
const MAX_STRING: usize = 128 << 10;
const REMEDIATION: &str =
    "pass it in a file: --bundle NAME=TAR:/MOUNT:ro, or on standard input with -i";

/// The maximum length of all of them, with a pointer for each, in bytes: a quarter of the stack
/// limit, which is 8 MiB for a guest's commands.
const MAX_TOTAL: usize = 2 << 20;

/// The size of a pointer in the guest, in bytes.
const POINTER: usize = 8;

/// A part of a command's argument list.
enum Part<'a> {
    Argument(usize),
    /// A variable of `--env`.
    Flag(&'a str),
    /// A variable of the image, or one that is always set.
    Image(&'a str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Argument(0) => f.write_str("the program's name"),
            Part::Argument(index) => write!(f, "argument {index} of the command"),
            Part::Flag(name) => write!(f, "--env {name}"),
            Part::Image(name) => write!(f, "the image's variable {name}"),
        }
    }
}

/// Checks `command`, some of whose variables come from `flags`.
///
/// # Errors
/// A part, or all of them together, is longer than Linux allows.
pub fn check(command: &Exec, flags: &[(String, String)]) -> Result<(), Failure> {
    let arguments = command.argv.iter().enumerate();
    let arguments = arguments.map(|(index, word)| (Part::Argument(index), word.len() + 1));
    let flags: HashSet<&str> = flags.iter().map(|(flag, _)| flag.as_str()).collect();
    let variables = command.env.iter().map(|(name, value)| {
        let part = match flags.contains(name.as_str()) {
            true => Part::Flag(name),
            false => Part::Image(name),
        };
        // With the equals sign.
        (part, name.len() + 1 + value.len() + 1)
    });
    let parts: Vec<(Part<'_>, usize)> = arguments.chain(variables).collect();
    let Some((longest, length)) = parts.iter().max_by_key(|(_, length)| length) else {
        return Ok(());
    };
    if *length > MAX_STRING {
        return Err(Failure::usage(format!(
            "{longest} is {} bytes long, above Linux's limit of {} bytes for one argument or variable",
            length - 1,
            MAX_STRING - 1
        ))
        .remediation(REMEDIATION));
    }
    let total: usize = parts.iter().map(|(_, length)| length + POINTER).sum();
    if total > MAX_TOTAL {
        return Err(Failure::usage(format!(
            "the command and its environment are {total} bytes long, above Linux's limit of \
             {MAX_TOTAL} bytes; the longest part is {longest} with {} bytes",
            length - 1
        ))
        .remediation(REMEDIATION));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use microagent_proto::agent::{Output, Place};

    use super::*;

    fn command(argv: &[&str], env: &[(&str, usize)]) -> Exec {
        Exec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: env
                .iter()
                .map(|&(name, length)| (name.to_owned(), "x".repeat(length)))
                .collect(),
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            output: Output::Separate,
            place: Place::Workload,
            keep: false,
        }
    }

    fn message(command: &Exec, flags: &[&str]) -> Option<String> {
        let flags: Vec<_> = flags
            .iter()
            .map(|&name| (name.to_owned(), String::new()))
            .collect();
        let failure = check(command, &flags).err()?;
        assert_eq!(failure.exit_code(125), 2);
        Some(failure.message)
    }

    #[test]
    fn a_part_may_have_131071_bytes() {
        // "V=" and the value.
        let at_limit = command(&["true"], &[("V", MAX_STRING - 3)]);
        assert_eq!(message(&at_limit, &[]), None);
        let above = command(&["true"], &[("V", MAX_STRING - 2)]);
        let text = |part: &str| {
            Some(format!(
                "{part} is 131072 bytes long, above Linux's limit of 131071 bytes for one argument \
                 or variable"
            ))
        };
        assert_eq!(message(&above, &["V"]), text("--env V"));
        assert_eq!(message(&above, &["W"]), text("the image's variable V"));
        let long = "x".repeat(MAX_STRING);
        let above = command(&["true", &long], &[]);
        assert_eq!(message(&above, &[]), text("argument 1 of the command"));
        let above = command(&[&long], &[]);
        assert_eq!(message(&above, &[]), text("the program's name"));
    }

    #[test]
    fn all_parts_together_may_have_two_mebibytes() {
        // "a\0" with its pointer, and 16 variables of 2 + length + 1 bytes with theirs.
        let (program, variable) = (2 + POINTER, 3 + POINTER);
        let length = (MAX_TOTAL - program) / 16 - variable;
        let names: Vec<String> = ('A'..='P').map(String::from).collect();
        let mut env: Vec<(&str, usize)> =
            names.iter().map(|name| (name.as_str(), length)).collect();
        let used = program + 16 * (variable + length);
        env[0].1 += MAX_TOTAL - used;
        assert_eq!(message(&command(&["a"], &env), &[]), None);
        env[0].1 += 1;
        assert_eq!(
            message(&command(&["a"], &env), &["A"]),
            Some(format!(
                "the command and its environment are 2097153 bytes long, above Linux's limit of \
                 2097152 bytes; the longest part is --env A with {} bytes",
                env[0].1 + 2
            ))
        );
    }
}
