//! Command lines that cannot be parsed: one line that names the word, and the way out. Flags that
//! people know from container engines and that mean nothing for a VM get a hint of their own.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::Failure;

/// Flags of `docker run` and what to do instead.
const CONTAINER_FLAGS: &[(&[&str], &str)] = &[
    (
        &[
            "--privileged",
            "--cap-add",
            "--cap-drop",
            "--security-opt",
            "--userns",
        ],
        "the command has a whole machine to itself and needs no extra rights: leave it out",
    ),
    (
        &["--device", "--gpus"],
        "a microVM has no devices of the host: run the command on the host instead",
    ),
    (
        &["--volume", "-v", "--mount", "--volumes-from", "--tmpfs"],
        "a microVM shares no directories with the host: put the files into the image, or pass them \
         on standard input with -i",
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
        "there is no network in the guest yet: leave it out",
    ),
    (
        &["--tty", "-t", "-it", "-ti"],
        "there is no terminal in the guest yet: leave it out, and use -i for standard input",
    ),
    (
        &["--detach", "-d"],
        "a run is always in the foreground: start it in the background of your shell",
    ),
    (
        &["--rm"],
        "a run leaves nothing behind unless --keep is given: leave it out",
    ),
    (
        &["--pid", "--ipc", "--uts", "--cgroupns", "--cgroup-parent"],
        "namespaces of the host mean nothing in a VM: leave it out",
    ),
    (
        &["--user", "-u", "--workdir", "-w"],
        "the image says this; change it in the command, as in --exec 'cd DIR && su USER -c …'",
    ),
    (
        &["--platform"],
        "a VM has the architecture of its host: leave it out",
    ),
    (
        &[
            "--json",
            "--quiet",
            "-q",
            "--verbose",
            "-vv",
            "--engine",
            "--no-color",
        ],
        "this flag stands before the command, as in: microagent --json run …",
    ),
];

/// What to say about a command line that clap refuses.
pub fn usage_error(error: &clap::Error, words: &[OsString]) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let usage = format!("see: {} --help", command_path(words));
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument {
        let flag = argument.split('=').next().unwrap_or(argument);
        let known = CONTAINER_FLAGS
            .iter()
            .find(|(flags, _)| flags.contains(&flag));
        let similar = text(ContextKind::SuggestedArg).map(|flag| format!("did you mean {flag}?"));
        return Failure::usage(format!("there is no flag {flag} here"))
            .remediation(known.map_or(similar.unwrap_or(usage), |(_, hint)| (*hint).to_owned()));
    }
    Failure::usage(first_paragraph(&error.render().to_string())).remediation(usage)
}

/// The command that was being parsed, for its help.
fn command_path(words: &[OsString]) -> String {
    let known = [
        "run", "rootfs", "build", "kernel", "install", "doctor", "version",
    ];
    let mut path = "microagent".to_owned();
    for word in words.iter().skip(1).filter_map(|word| word.to_str()) {
        if known.contains(&word) {
            path.push(' ');
            path.push_str(word);
        } else if !word.starts_with('-') {
            break;
        }
    }
    path
}

/// clap's message as one line, without its prefix, its usage and its tips.
fn first_paragraph(rendered: &str) -> String {
    let paragraph = rendered.split("\n\n").next().unwrap_or(rendered);
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
