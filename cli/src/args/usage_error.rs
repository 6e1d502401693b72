//! Errors of a command line that cannot be parsed: one line that names the word, and a
//! remediation. Flags known from container engines that do not apply to a VM have their own.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Flags of `docker run`, and what to do instead.
const CONTAINER_FLAGS: &[(&[&str], &str)] = &[
    (
        &[
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "--security-opt",
            "--userns",
        ],
        "omit it: the command runs in its own VM and needs no extra privileges",
    ),
    (
        &["--device", "--gpus"],
        "a microVM has no access to host devices: run the command on the host instead",
    ),
    (
        &["--volume", "-v", "--mount", "--volumes-from", "--tmpfs"],
        "a microVM shares no directories with the host: put the files into the image, attach them \
         with --disk or --bundle, or pass them on standard input with -i",
    ),
    (
        &[
            "--network",
            "--net",
            "--publish",
            "-p",
            "--publish-all",
            "-P",
            "--dns",
            "--add-host",
            "--link",
        ],
        "omit it: the guest has no network yet",
    ),
    (
        &["--tty", "-t", "-it", "-ti"],
        "omit it: the guest has no terminal yet; use -i for standard input",
    ),
    (
        &["--detach", "-d"],
        "omit it: a run is always in the foreground; use a background job of the shell instead",
    ),
    (
        &["--rm"],
        "omit it: a run leaves nothing behind unless --keep is given",
    ),
    (
        &["--pid", "--ipc", "--uts", "--cgroupns", "--cgroup-parent"],
        "omit it: host namespaces do not apply to a VM",
    ),
    (
        &["--user", "-u", "--workdir", "-w"],
        "the image sets this; change it in the command, as in --exec 'cd DIR && su USER -c …'",
    ),
    (&["--platform"], "omit it: a VM has the host's architecture"),
];

/// The remediation for a global flag after the command.
const GLOBAL_FLAG: &str = "global flags precede the command, as in: microagent --json run …";

/// The failure for a command line that clap rejects with `error`. `grammar` must be built.
pub fn usage_error(error: &clap::Error, words: &[OsString], grammar: &Command) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let usage = format!("see: {} --help", command_path(words, grammar));
    if error.kind() != ErrorKind::UnknownArgument {
        return Failure::usage(first_paragraph(&error.render().to_string())).remediation(usage);
    }
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split('=').next().unwrap_or(argument);
    let container_flag = CONTAINER_FLAGS
        .iter()
        .find(|(flags, _)| flags.contains(&flag));
    let remediation = match (container_flag, text(ContextKind::SuggestedArg)) {
        (Some((_, remediation)), _) => (*remediation).to_owned(),
        _ if is_global_flag(flag, grammar) => GLOBAL_FLAG.to_owned(),
        (None, Some(similar)) => format!("did you mean {similar}?"),
        (None, None) => usage,
    };
    Failure::usage(format!("unknown flag {flag}")).remediation(remediation)
}

/// Whether `flag` is valid before the command only; `-vv` counts as `-v`.
fn is_global_flag(flag: &str, grammar: &Command) -> bool {
    let long = flag.strip_prefix("--");
    let short = match long {
        Some(_) => None,
        None => flag.strip_prefix('-').and_then(|name| name.chars().next()),
    };
    grammar.get_arguments().any(|argument| {
        long.is_some() && argument.get_long() == long
            || short.is_some() && argument.get_short() == short
    })
}

/// The command that was being parsed, for its help.
fn command_path(words: &[OsString], grammar: &Command) -> String {
    let mut command = grammar;
    let mut path = "microagent".to_owned();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if let Some(subcommand) = command.find_subcommand(word) {
            command = subcommand;
            path.push(' ');
            path.push_str(word);
        } else if !word.starts_with('-') {
            break;
        }
    }
    path
}

/// clap's message as one line, without its prefix, usage and tips.
fn first_paragraph(rendered: &str) -> String {
    let paragraph = rendered.split("\n\n").next().unwrap_or(rendered);
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
