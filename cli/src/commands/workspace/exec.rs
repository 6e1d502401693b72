//! `microagent exec`.

use std::io;
use std::thread;

use microagent_proto::agent::{AGENT_PORT, Place};
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::session::{self, SessionError};
use microagent_workspace::start;
use microagent_workspace::state::State;
use serde::Serialize;

use super::{INTERVAL, client, client_failure, get};
use crate::args::ExecArgs;
use crate::failure::{EXIT_RUN_FAILED, EXIT_SIGPIPE, Failure};
use crate::output::stdout_error;
use crate::request::{env_variable, exec_size};
use crate::run::sink::CommandSink;
use crate::run::vm::{exec_failure, exit_code};
use crate::settings::Settings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    exit_code: Option<i32>,
    signal: Option<i32>,
    out_of_memory: bool,
    stdout: String,
    stderr: String,
    truncated: bool,
}

/// Runs a command in a running workspace; returns its exit code.
pub fn exec(args: ExecArgs, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let directory = get(settings, name)?;
    let mut spec = directory.spec()?;
    let variables = args.env.iter().map(|word| env_variable(word));
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    spec.env.extend(variables.clone());
    let recorded = start::recorded(&spec)
        .map_err(|error| Failure::caused(microagent_pipeline::ErrorKind::Corrupt, &error))?;
    let mut request = start::exec(&spec, recorded, args.words, Place::Beside);
    request.stdin = args.interactive;
    request.merge_output = settings.output.streams_are_one();
    request.cwd = args.cwd.unwrap_or(request.cwd);
    request.user = args.user.unwrap_or(request.user);
    exec_size::check(&request, &variables)?;
    let client = client(&directory, name)?;
    // Issued once, when the guest is ready. A boot has its own time limit.
    while client
        .status()
        .is_ok_and(|status| status.state == State::Starting)
    {
        thread::sleep(INTERVAL);
    }
    let stream = (client.connect(AGENT_PORT)).map_err(|error| client_failure(error, name))?;
    let mut sink = CommandSink::new(settings.output).map_err(|error| stdout_error(&error))?;
    match session::exec(stream, request, &mut sink) {
        Ok(exited) => {
            if settings.output.json {
                let captured = sink.into_captured();
                let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                settings.output.document(&Document {
                    workspace: &args.name,
                    exit_code: exited.code,
                    signal: exited.signal,
                    out_of_memory: exited.out_of_memory,
                    stdout: text(captured.stdout),
                    stderr: text(captured.stderr),
                    truncated: captured.truncated,
                })?;
            }
            Ok(exit_code(exited))
        }
        Err(SessionError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(EXIT_SIGPIPE)
        }
        Err(SessionError::Output(error)) => Err(stdout_error(&error)),
        Err(SessionError::Refused(failure)) => Err(exec_failure(&failure)),
        Err(error) => Err(Failure::from(MachineError::Session(error)).exits(EXIT_RUN_FAILED)),
    }
}
