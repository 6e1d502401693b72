//! Parsing with the grammar of one command.
//!
//! Building the grammar of every command, and dropping it, takes most of the instructions of a
//! short command: about a million. For the commands that people run in loops, the global flags and
//! their own are enough. What such a grammar does not accept is left to the whole one, which knows
//! the nearest command and flag, and the help.

use std::ffi::OsString;

use clap::{Args, FromArgMatches};

use super::{Cli, ExecArgs, GlobalArgs, RunArgs, StartArgs};

/// The command line, if its command is one of these and it is correct.
pub fn parse(words: &[OsString], command: &str) -> Option<Cli> {
    let own = match command {
        "run" => RunArgs::augment_args(clap::Command::new("run")),
        "exec" => ExecArgs::augment_args(clap::Command::new("exec")),
        "start" => StartArgs::augment_args(clap::Command::new("start")),
        _ => return None,
    };
    let grammar = clap::Command::new("microagent").subcommand_required(true);
    let grammar = GlobalArgs::augment_args(grammar).subcommand(own);
    let mut grammar = super::without_empty_variables(grammar);
    let matches = grammar.try_get_matches_from_mut(words);
    // Freeing each of its thousand parts would take longer than the parsing.
    std::mem::forget(grammar);
    Cli::from_arg_matches(&matches.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn it_accepts_what_the_whole_grammar_accepts_and_understands_the_same() {
        for line in [
            "microagent run",
            "microagent run image",
            "microagent --json --engine qemu run --memory 256 -e A=B --name n image sh -c x",
            "microagent run -q --image i --exec x --disk a=/b:/c:rw --setup 1 --setup 2",
            "microagent -vv exec -e A=B box -- ls --json",
            "microagent exec box ls -l",
            "microagent start box",
            "microagent start box --quiet --state-dir /s",
        ] {
            let words = words(line);
            let command = &words[super::super::command_index(&words).unwrap()];
            let alone = parse(&words, command.to_str().unwrap()).unwrap();
            let whole = Cli::try_parse_from(&words).unwrap();
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn it_accepts_nothing_else() {
        for line in [
            "microagent run --memroy 1 image",
            "microagent run --help",
            "microagent exec",
            "microagent start --no-such-flag box",
            "microagent --no-such-flag run image",
            "microagent start",
        ] {
            let words = words(line);
            let command = ["run", "exec", "start"]
                .into_iter()
                .find(|command| line.contains(command));
            assert!(parse(&words, command.unwrap()).is_none(), "{line}");
            assert!(Cli::try_parse_from(&words).is_err(), "{line}");
        }
        assert!(parse(&words("microagent version"), "version").is_none());
    }
}
