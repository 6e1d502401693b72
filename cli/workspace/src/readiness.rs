//! Whether a workspace can be used, found out at this moment.

use std::time::Duration;

use microagent_proto::agent::{AGENT_PORT, Place};
use microagent_proto::error_chain;
use serde::Serialize;

use crate::client::Client;
use crate::dir::WorkspaceDir;
use crate::event::now;
use crate::machine::mediation;
use crate::machine::probe::{self, ProbeError};
use crate::machine::session::SessionError;
use crate::result::WorkloadResult;
use crate::spec::{DEFAULT_SHELL, Spec};
use crate::start::{exec, recorded};
use crate::state::State;

/// How long each probe of the guest may take.
const LIMIT: Duration = Duration::from_secs(3);

/// What a workspace can be used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// The guest agent answers.
    pub guest_ready: Probe,
    /// The shell of `connect` can be executed.
    pub shell_ready: Probe,
    /// `exec` is possible.
    pub exec_ready: Probe,
    /// The result of the workload is there.
    pub result_ready: Probe,
    /// The server on the host that the guest may reach can be reached.
    pub mediation_ready: Probe,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Whether it is ready.
    pub ready: bool,
    /// When this was found out, as RFC 3339 in UTC.
    pub observed_at: String,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Probe {
    fn new(result: Result<(), String>) -> Probe {
        Probe {
            ready: result.is_ok(),
            observed_at: now(),
            detail: result.err(),
        }
    }
}

/// Probes the workspace in `directory`, which is in `state`. Takes a few seconds at most.
pub fn readiness(directory: &WorkspaceDir, spec: &Spec, state: State) -> Readiness {
    let client = match state {
        State::Running => Client::new(directory).map_err(|error| error_chain(&error)),
        state => Err(format!("it is {state}")),
    };
    let ping = |client: &Client| {
        let stream = client.probe(AGENT_PORT);
        let stream = stream.map_err(|error| error_chain(&error))?;
        probe::ping(stream, LIMIT).map_err(|error| error_chain(&error))
    };
    let guest = client.as_ref().map_err(Clone::clone).and_then(ping);
    let guest_ready = Probe::new(guest.clone());
    // A guest that does not answer is asked once.
    let shell = (guest.clone()).and_then(|()| client.and_then(|client| run_shell(&client, spec)));
    Readiness {
        guest_ready,
        shell_ready: Probe::new(shell),
        exec_ready: Probe::new(guest),
        result_ready: Probe::new(result(directory, spec)),
        mediation_ready: Probe::new(mediation(spec, state)),
    }
}

/// Executes the shell with a command that does nothing.
fn run_shell(client: &Client, spec: &Spec) -> Result<(), String> {
    let recorded = recorded(spec).map_err(|error| error.to_string())?;
    let shell = spec.shell.clone().unwrap_or(DEFAULT_SHELL.to_owned());
    let argv = vec![shell.clone(), "-c".to_owned(), "exit 0".to_owned()];
    let request = exec(spec, recorded, argv, Place::Beside);
    let stream = client.probe(AGENT_PORT);
    let stream = stream.map_err(|error| error_chain(&error))?;
    match probe::run(stream, request, LIMIT) {
        Ok((exited, _)) if exited.code == Some(0) => Ok(()),
        Ok((exited, _)) => Err(match exited.code {
            Some(code) => format!("{shell} ends with exit code {code}"),
            None => format!("{shell} is killed by a signal"),
        }),
        Err(ProbeError::Session(SessionError::Refused(failure))) => Err(failure.message),
        Err(error) => Err(error_chain(&error)),
    }
}

/// Connects to the server, as each `start` does.
fn mediation(spec: &Spec, state: State) -> Result<(), String> {
    match (&spec.mediation, state) {
        (None, _) => Err("the workspace has no mediation".to_owned()),
        (Some(mediation), State::Running) => {
            mediation::probe(&mediation.target).map_err(|error| error_chain(&error))
        }
        (Some(_), state) => Err(format!("it is {state}")),
    }
}

fn result(directory: &WorkspaceDir, spec: &Spec) -> Result<(), String> {
    match WorkloadResult::read(&directory.result()) {
        Ok(Some(_)) => Ok(()),
        Ok(None) if recorded(spec).is_ok_and(|recorded| recorded.argv.is_empty()) => {
            Err("the workspace has no workload".to_owned())
        }
        Ok(None) => Err("the workload has not ended".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
