//! `microagent exec`.

use microagent_proto::agent::{Exited, Output as CommandOutput};
use microagent_workspace::machine::session::{End, Source, Stdin};
use serde::Serialize;

use super::target::{Ended, How, Target};
use crate::args::ExecArgs;
use crate::failure::Failure;
use crate::request::{exec_size, resources};
use crate::run::variables;
use crate::run::vm::output_of;
use crate::settings::Settings;
use crate::terminal;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    exit_code: Option<i32>,
    signal: Option<i32>,
    out_of_memory: bool,
    timed_out: bool,
    stdout: String,
    stderr: String,
    truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DetachedDocument<'a> {
    workspace: &'a str,
    pid: Option<u32>,
}

/// Runs a command in a running workspace; returns its exit code.
pub fn exec(args: ExecArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let timeout = (args.timeout.as_deref()).map(resources::timeout);
    let timeout = timeout.transpose()?;
    if args.tty {
        check_terminal(
            settings,
            |failure| failure.remediation("omit --json or -t"),
            |failure| failure.remediation("omit -t: the command then has no terminal"),
        )?;
    }
    let variables = variables::read(&args.environment)?;
    let target = Target::find(&args.name, settings)?;
    let mut request = target.request(args.words, &variables)?;
    request.cwd = args.cwd.unwrap_or(request.cwd);
    request.user = args.user.unwrap_or(request.user);
    request.output = match (args.detach, args.tty) {
        (true, _) => CommandOutput::Discard,
        (_, true) => CommandOutput::Terminal(terminal::size()),
        _ => output_of(settings.output),
    };
    if args.tty {
        target.name_terminal(&mut request, &variables);
    }
    exec_size::check(&request, &variables.set)?;
    let has_input = args.interactive || args.tty;
    let source = has_input.then(|| Box::new(Stdin) as Box<dyn Source>);
    let mut ended = target.run(request, source, timeout, termination)?;
    if settings.output.json {
        print(&mut ended, &args.name, settings)?;
    }
    ended.exit_code()
}

/// Checks that a command can be given this process's terminal; `of_json` and `of_none` say what to do
/// with `--json`, and if there is none.
pub fn check_terminal(
    settings: &Settings,
    of_json: impl FnOnce(Failure) -> Failure,
    of_none: impl FnOnce(Failure) -> Failure,
) -> Result<(), Failure> {
    if settings.output.json {
        return Err(of_json(Failure::usage("--json conflicts with a terminal")));
    }
    match terminal::is_terminal() {
        true => Ok(()),
        false => Err(of_none(Failure::usage("standard input is not a terminal"))),
    }
}

/// Prints the document of a command.
pub fn print(ended: &mut Ended, workspace: &str, settings: &Settings) -> Result<(), Failure> {
    if let How::Session(End::Detached { pid }) = ended.how {
        return settings
            .output
            .document(&DetachedDocument { workspace, pid });
    }
    let exited = match ended.how {
        How::Session(End::Exited(exited)) => Some(exited),
        _ => None,
    };
    let captured = std::mem::take(&mut ended.captured);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    settings.output.document(&Document {
        workspace,
        exit_code: exited.and_then(|exited| exited.code),
        signal: exited.and_then(|exited| exited.signal),
        out_of_memory: exited.is_some_and(|Exited { out_of_memory, .. }| out_of_memory),
        timed_out: matches!(ended.how, How::TimedOut(_)),
        stdout: text(captured.stdout),
        stderr: text(captured.stderr),
        truncated: captured.truncated,
    })
}
