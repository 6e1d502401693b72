//! The guest's command, from the image's configuration and the command line, by the rules of
//! container engines.
//!
//! | command line | guest command |
//! |---|---|
//! | `--exec CMD` | `/bin/sh -c CMD`; the image's entrypoint is ignored |
//! | `REF CMD ARG…` | the image's entrypoint, then `CMD ARG…` |
//! | `--entrypoint E REF ARG…` | `E ARG…`; the image's default command is ignored |
//! | `REF` alone | the image's entrypoint and default command |
//!
//! An entrypoint of one empty word, in the image or on the command line, is no entrypoint.

/// The command as given on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandSpec {
    /// `--exec`
    pub exec: Option<String>,
    /// `--entrypoint`
    pub entrypoint: Option<String>,
    /// The words after the image.
    pub words: Vec<String>,
}

/// The command and its arguments; empty if neither the command line nor the image gives one.
pub fn argv(
    spec: &CommandSpec,
    image_entrypoint: &[String],
    image_command: &[String],
) -> Vec<String> {
    if let Some(command) = &spec.exec {
        return shell(command);
    }
    let mut argv = match &spec.entrypoint {
        Some(program) => vec![program.clone()],
        None => image_entrypoint.to_vec(),
    };
    if argv == [""] {
        argv.clear();
    }
    if !spec.words.is_empty() {
        argv.extend_from_slice(&spec.words);
    } else if spec.entrypoint.is_none() {
        argv.extend_from_slice(image_command);
    }
    argv
}

/// The arguments that run `command` in the image's shell.
pub fn shell(command: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), command.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn spec(exec: Option<&str>, entrypoint: Option<&str>, rest: &str) -> CommandSpec {
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
                spec(None, None, ""),
                "/entry",
                "serve --all",
                "/entry serve --all",
            ),
            (spec(None, None, ""), "", "bash", "bash"),
            (spec(None, None, ""), "/entry", "", "/entry"),
            (spec(None, None, "ls -l"), "/entry", "serve", "/entry ls -l"),
            (spec(None, None, "ls -l"), "", "bash", "ls -l"),
            (spec(None, Some("/mine"), ""), "/entry", "serve", "/mine"),
            (
                spec(None, Some("/mine"), "-x"),
                "/entry",
                "serve",
                "/mine -x",
            ),
        ] {
            let argv = argv(&what, &words(entrypoint), &words(command));
            assert_eq!(argv, words(expected), "{what:?}");
        }
    }

    #[test]
    fn an_entrypoint_of_one_empty_word_is_none() {
        let none = ["".to_owned()];
        let run = |what: &CommandSpec, entrypoint: &[String], command: &str| {
            argv(what, entrypoint, &words(command))
        };
        let image = spec(None, None, "");
        assert_eq!(run(&image, &none, "sh -i"), words("sh -i"));
        assert_eq!(run(&image, &none, ""), [""; 0]);
        assert_eq!(run(&spec(None, None, "ls"), &none, "sh"), words("ls"));
        // The guest reports that there is no such program, as container engines do.
        let program = ["".to_owned(), "x".to_owned()];
        assert_eq!(run(&image, &program, "sh"), ["", "x", "sh"]);
        assert_eq!(argv(&image, &[], &none), none);
        let mine = |rest| spec(None, Some(""), rest);
        assert_eq!(run(&mine("ls -l"), &words("/entry"), "sh"), words("ls -l"));
        assert_eq!(run(&mine(""), &words("/entry"), "sh"), [""; 0]);
    }

    #[test]
    fn a_shell_command_is_one_argument_and_ignores_the_image() {
        let what = spec(Some("echo a  b; exit 3"), None, "");
        assert_eq!(
            argv(&what, &words("/entry"), &words("serve")),
            ["/bin/sh", "-c", "echo a  b; exit 3"]
        );
    }
}
