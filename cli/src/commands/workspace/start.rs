//! `microagent start`.

use microagent_pipeline::ErrorKind;
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::saved;
use microagent_workspace::state::State;
use serde::Serialize;

use super::end::wait_for_end;
use super::starting::{Change, start_again};
use super::wake::{leave, wake};
use super::{get, print_state, state_of};
use crate::args::StartArgs;
use crate::failure::Failure;
use crate::request::resources;
use crate::run::vm::exit_code;
use crate::settings::Settings;
use crate::termination::Termination;

/// Starts a workspace, and returns when its guest is ready and its workload was executed; with
/// `--wait` when it has ended.
pub fn start(
    args: &StartArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let name = &args.name;
    let limit = match args.wait.as_deref() {
        None | Some("") => None,
        Some(seconds) => Some(resources::seconds("--wait", seconds)?),
    };
    let directory = get(settings, name)?;
    let change = Change::of(args, settings, termination)?;
    let suspended = saved::suspended(&directory).is_some();
    if suspended && change.keeps_memory() {
        if change.is_of_machine() {
            let message = format!("workspace {name} is suspended, and goes on as it was");
            return Err(Failure::new(ErrorKind::Conflict, message)
                .remediation(format!("stop it first: microagent stop {name}")));
        }
        wake(&directory, name, settings)?;
    } else {
        if suspended {
            leave(&directory, name)?;
        }
        start_again(&directory, name, &change, settings)?;
    }
    if args.wait.is_none() {
        let (state, _) = state_of(&directory)?;
        return print_state(settings, name, state);
    }
    if !settings.output.json {
        settings.output.text(&format!("{name}\n"))?;
    }
    let ended = wait_for_end(&directory, name, limit)?;
    if settings.output.json {
        settings.output.document(&Document {
            workspace: name,
            state: ended.state,
            result: ended.result.as_ref(),
        })?;
    }
    match &ended.result {
        Some(result) => Ok(exit_code(result.exited())),
        None if ended.state == State::Failed => {
            let (_, event) = state_of(&directory)?;
            let detail = event.and_then(|event| event.detail).unwrap_or_default();
            let message = format!("workspace {name} has failed: {detail}");
            Err(Failure::new(ErrorKind::Guest, message))
        }
        None => Ok(0),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    state: State,
    result: Option<&'a WorkloadResult>,
}
