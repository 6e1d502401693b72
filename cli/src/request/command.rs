//! What runs in the guest: the image's configuration and what was typed, by the rules of container
//! engines.
//!
//! | typed | runs |
//! |---|---|
//! | `--exec CMD` | `/bin/sh -c CMD`; the image's entrypoint is left out |
//! | `REF CMD ARG…` | the image's entrypoint, then `CMD ARG…` |
//! | `--entrypoint E REF ARG…` | `E ARG…`; the image's own command is left out |
//! | `REF` alone | the image's entrypoint and command |

use microagent_pipeline::ErrorKind;

use crate::failure::Failure;

/// Where commands are looked for when neither the image nor `--env` says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandSpec {
    /// `--exec`
    pub exec: Option<String>,
    /// `--entrypoint`
    pub entrypoint: Option<String>,
    /// The words after the image.
    pub words: Vec<String>,
}

/// The command and its arguments; never empty.
///
/// # Errors
/// When nothing says what to run.
pub fn argv(
    typed: &CommandSpec,
    image_entrypoint: &[String],
    image_command: &[String],
    reference: &str,
) -> Result<Vec<String>, Failure> {
    if let Some(command) = &typed.exec {
        return Ok(shell(command));
    }
    let mut argv = match &typed.entrypoint {
        Some(program) => vec![program.clone()],
        None => image_entrypoint.to_vec(),
    };
    if !typed.words.is_empty() {
        argv.extend_from_slice(&typed.words);
    } else if typed.entrypoint.is_none() {
        argv.extend_from_slice(image_command);
    }
    if argv.is_empty() {
        return Err(Failure::new(
            ErrorKind::Usage,
            format!("the image {reference} does not say what to run"),
        )
        .remediation("add --exec 'COMMAND', or a command after the image"));
    }
    Ok(argv)
}

/// A command line for the image's shell.
pub fn shell(command: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), command.into()]
}

/// The environment: a search path and the host name, over them the image's, over them what was
/// typed. Entries of an image without `=` are left out.
pub fn environment(
    image: &[String],
    typed: &[(String, String)],
    hostname: &str,
) -> Vec<(String, String)> {
    let mut environment = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
    ];
    let image = image.iter().filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    });
    for (name, value) in image.chain(typed.iter().cloned()) {
        match environment.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => environment.push((name, value)),
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn typed(exec: Option<&str>, entrypoint: Option<&str>, rest: &str) -> CommandSpec {
        CommandSpec {
            exec: exec.map(str::to_owned),
            entrypoint: entrypoint.map(str::to_owned),
            words: words(rest),
        }
    }

    #[test]
    fn the_command_follows_the_rules_of_container_engines() {
        for (what, entrypoint, command, expected) in [
            (
                typed(None, None, ""),
                "/entry",
                "serve --all",
                "/entry serve --all",
            ),
            (typed(None, None, ""), "", "bash", "bash"),
            (typed(None, None, ""), "/entry", "", "/entry"),
            (
                typed(None, None, "ls -l"),
                "/entry",
                "serve",
                "/entry ls -l",
            ),
            (typed(None, None, "ls -l"), "", "bash", "ls -l"),
            (typed(None, Some("/mine"), ""), "/entry", "serve", "/mine"),
            (
                typed(None, Some("/mine"), "-x"),
                "/entry",
                "serve",
                "/mine -x",
            ),
        ] {
            let argv = argv(&what, &words(entrypoint), &words(command), "x").unwrap();
            assert_eq!(argv, words(expected), "{what:?}");
        }
    }

    #[test]
    fn a_shell_command_is_one_word_and_leaves_the_image_out() {
        let what = typed(Some("echo a  b; exit 3"), None, "");
        assert_eq!(
            argv(&what, &words("/entry"), &words("serve"), "x").unwrap(),
            ["/bin/sh", "-c", "echo a  b; exit 3"]
        );
    }

    #[test]
    fn an_image_without_a_command_needs_one() {
        let failure = argv(&CommandSpec::default(), &[], &[], "oci:x").unwrap_err();
        assert_eq!(
            failure,
            Failure::new(ErrorKind::Usage, "the image oci:x does not say what to run")
                .remediation("add --exec 'COMMAND', or a command after the image")
        );
    }

    #[test]
    fn what_was_typed_wins_over_the_image_and_the_image_over_defaults() {
        let image = words("A=1 PATH=/opt/bin B= broken =x A=2");
        let typed = [("B".into(), "typed=yes".into()), ("C".into(), "3".into())];
        let expected = [
            ("PATH", "/opt/bin"),
            ("HOSTNAME", "box"),
            ("A", "2"),
            ("B", "typed=yes"),
            ("C", "3"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(&image, &typed, "box"), expected);
        assert_eq!(environment(&[], &[], "box")[0].1, DEFAULT_PATH);
    }
}
