//! Errors of a command line that cannot be parsed: one line that names the word, and a
//! remediation. Flags known from container engines that do not apply to a VM have their own.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// The remediation for a directory of the host.
const NO_VOLUMES: &str = "a microVM shares no directories with the host: put the files into the \
                          image, attach them with --disk or --bundle, or pass them on standard \
                          input with -i";

/// The least similarity of two words (Jaro) for the one to be taken for the other misspelt, as clap
/// does with flags.
const SIMILAR: f64 = 0.8;

/// Flags of `docker run`, and what to do instead.
struct ContainerFlags {
    flags: &'static [&'static str],
    remediation: &'static str,
}

const CONTAINER_FLAGS: &[ContainerFlags] = &[
    ContainerFlags {
        flags: &[
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "--security-opt",
            "--userns",
        ],
        remediation: "omit it: the command runs in its own VM and needs no extra privileges",
    },
    ContainerFlags {
        flags: &["--device", "--gpus"],
        remediation: "a microVM has no access to host devices: run the command on the host instead",
    },
    ContainerFlags {
        flags: &["--volume", "--mount", "--volumes-from", "--tmpfs"],
        remediation: NO_VOLUMES,
    },
    ContainerFlags {
        flags: &["--net", "--dns", "--add-host", "--link"],
        remediation: "the guest resolves what the host resolves; a network is chosen with --network",
    },
    ContainerFlags {
        flags: &["-p", "--publish-all", "-P"],
        remediation: "name each port: --publish 8080:80",
    },
    ContainerFlags {
        flags: &["--tty", "-t", "-it", "-ti"],
        remediation: "omit it, and use -i for standard input; a workspace has terminals: microagent exec -t",
    },
    ContainerFlags {
        flags: &["--detach", "-d"],
        remediation: "omit it: a run is always in the foreground; use a background job of the shell instead",
    },
    ContainerFlags {
        flags: &["--rm"],
        remediation: "omit it: a run leaves nothing behind unless --keep is given",
    },
    ContainerFlags {
        flags: &["--pid", "--ipc", "--uts", "--cgroupns", "--cgroup-parent"],
        remediation: "omit it: host namespaces do not apply to a VM",
    },
    ContainerFlags {
        flags: &["--user", "-u", "--workdir", "-w"],
        remediation: "the image sets this; change it in the command, as in --exec 'cd DIR && su USER -c …'",
    },
    ContainerFlags {
        flags: &["--platform"],
        remediation: "omit it: a VM has the host's architecture",
    },
];

/// The failure for a command line that clap rejects with `error`. `grammar` must be built.
pub fn usage_error(error: &clap::Error, words: &[OsString], grammar: &Command) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let usage = format!("see: {} --help", command_path(words, grammar));
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let remediation = match text(ContextKind::SuggestedSubcommand) {
                Some(similar) => format!("did you mean {similar}?"),
                None => usage,
            };
            return Failure::usage(format!("unknown command {word}")).remediation(remediation);
        }
        ErrorKind::UnknownArgument => {}
        _ => {
            let message = first_paragraph(&error.render().to_string());
            return Failure::usage(message).remediation(usage);
        }
    }
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split('=').next().unwrap_or(argument);
    let remediation = match (container_flag(flag), text(ContextKind::SuggestedArg)) {
        (Some((known, remediation)), _) if known == flag => remediation.to_owned(),
        (Some((known, remediation)), similar)
            if similar.is_none_or(|similar| nearer(flag, known, similar)) =>
        {
            format!("did you mean {known}? {remediation}")
        }
        (_, Some(similar)) => format!("did you mean {similar}?"),
        (_, None) => usage,
    };
    let what = match flag.starts_with('-') {
        true => "unknown flag",
        false => "unexpected argument",
    };
    Failure::usage(format!("{what} {flag}")).remediation(remediation)
}

/// Whether `flag` is more similar to `one` than to `other`.
fn nearer(flag: &str, one: &str, other: &str) -> bool {
    strsim::jaro(flag, one) > strsim::jaro(flag, other)
}

/// The flag of `docker run` that is `flag` or most similar to it, and what to do instead.
fn container_flag(flag: &str) -> Option<(&'static str, &'static str)> {
    let known = (CONTAINER_FLAGS.iter())
        .flat_map(|entry| entry.flags.iter().map(|known| (*known, entry.remediation)));
    known
        .map(|(known, remediation)| {
            let similarity = match known == flag {
                true => 1.0,
                // A short flag is not a misspelt one.
                false if known.len() < 4 || flag.len() < 4 => 0.0,
                false => strsim::jaro(known, flag),
            };
            (similarity, known, remediation)
        })
        .filter(|(similarity, ..)| *similarity > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known, remediation)| (known, remediation))
}

/// The failure for `run -v /HOST:/GUEST`: `-v` is a flag of its own here, and the volume would be
/// taken for the image.
pub fn volume(words: &[OsString], command: &super::Command) -> Option<Failure> {
    let super::Command::Run(run) = command else {
        return None;
    };
    let first = run.words.first()?;
    let is_volume = first.starts_with(['/', '.', '~']) && first.contains(':');
    let after_v = |pair: &[OsString]| pair[0] == "-v" && pair[1] == first.as_str();
    (is_volume && words.windows(2).any(after_v))
        .then(|| Failure::usage(format!("-v {first}: unknown volume")).remediation(NO_VOLUMES))
}

/// The command that was being parsed, for its help.
fn command_path(words: &[OsString], grammar: &Command) -> String {
    let mut command = grammar;
    let mut path = "microagent".to_owned();
    let mut words = words.iter().skip(1).filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        if let Some(subcommand) = command.find_subcommand(word) {
            command = subcommand;
            path.push(' ');
            path.push_str(word);
        } else if !word.starts_with('-') {
            break;
        } else if takes_value(command, word) {
            words.next();
        }
    }
    path
}

/// Whether the word after the flag `word` is its value.
fn takes_value(command: &Command, word: &str) -> bool {
    command.get_arguments().any(|argument| {
        let long = argument.get_long();
        let short = argument.get_short().map(|short| format!("-{short}"));
        let is_named = long.is_some_and(|long| word.strip_prefix("--") == Some(long))
            || short.is_some_and(|short| word == short);
        is_named && argument.get_action().takes_values()
    })
}

/// clap's message as one line, without its prefix, usage and tips.
fn first_paragraph(rendered: &str) -> String {
    let paragraph = rendered.split("\n\n").next().unwrap_or(rendered);
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
