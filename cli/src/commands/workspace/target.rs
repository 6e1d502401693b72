//! A command in a running workspace, for `exec` and `connect`.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::{AGENT_PORT, Exec, Output, Place};
use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::session::{self, Control, End, SessionError, Sink, Source};
use microagent_workspace::spec::Spec;
use microagent_workspace::start;
use microagent_workspace::state::State;

use super::attached::TerminalSink;
use super::wake::wake;
use super::{INTERVAL, ask, get, state_of};
use crate::failure::{EXIT_RUN_FAILED, EXIT_SIGPIPE, Failure};
use crate::output::stdout_error;
use crate::request::Variables;
use crate::run::deadline::Deadline;
use crate::run::sink::{Captured, CommandSink};
use crate::run::vm::{exec_failure, exit_code};
use crate::settings::Settings;
use crate::termination::Termination;

/// What a terminal is if nothing says so, as with container engines.
const DEFAULT_TERM: &str = "xterm";

/// The workspace in which a command is to run.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its directory.
    pub directory: WorkspaceDir,
    /// Its specification.
    pub spec: Spec,
    settings: &'a Settings,
}

/// The end of a command, or of its session.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub how: How,
    /// Its output, captured with `--json`.
    pub captured: Captured,
}

/// How a command ended.
#[derive(Debug)]
pub enum How {
    /// By itself, or it was left.
    Session(End),
    /// The reader of standard output closed it.
    StdoutClosed,
    /// The timeout expired.
    TimedOut(Failure),
}

impl Ended {
    /// The exit code of this program.
    ///
    /// # Errors
    /// The failure of a timeout.
    pub fn exit_code(self) -> Result<u8, Failure> {
        match self.how {
            How::Session(End::Exited(exited)) => Ok(exit_code(exited)),
            How::Session(End::Detached { .. }) => Ok(0),
            How::StdoutClosed => Ok(EXIT_SIGPIPE),
            How::TimedOut(failure) => Err(failure),
        }
    }
}

impl<'a> Target<'a> {
    /// The workspace `name`.
    pub fn find(name: &'a str, settings: &'a Settings) -> Result<Target<'a>, Failure> {
        let directory = get(settings, name)?;
        Ok(Target {
            name,
            spec: directory.known_spec()?,
            directory,
            settings,
        })
    }

    /// A command with the environment, directory and user of the workspace.
    pub fn request(&self, argv: Vec<String>, variables: &Variables) -> Result<Exec, Failure> {
        let mut spec = self.spec.clone();
        spec.env.extend(variables.set.iter().cloned());
        let recorded = start::recorded(&spec)?;
        let mut request = start::exec(&spec, recorded, argv, Place::Beside);
        variables.remove_unset(&mut request.env);
        Ok(request)
    }

    /// Gives a command the name of this process's terminal (`TERM`), unless `variables` or the
    /// workspace set it; that of the image is the name of another one.
    pub fn name_terminal(&self, request: &mut Exec, variables: &Variables) {
        if self.spec.env.contains_key("TERM") || variables.names("TERM") {
            return;
        }
        let ours = std::env::var("TERM").ok().filter(|name| !name.is_empty());
        let term = ours.unwrap_or_else(|| DEFAULT_TERM.to_owned());
        request.env.push(("TERM".to_owned(), term));
    }

    /// Runs the command when the guest is ready, and issues it once.
    pub fn run(
        &self,
        request: Exec,
        source: Option<Box<dyn Source>>,
        timeout: Option<u64>,
        termination: &Termination,
    ) -> Result<Ended, Failure> {
        let switch = KillSwitch::default();
        let deadline = {
            let switch = switch.clone();
            Deadline::start(timeout, move || switch.kill(), termination.clone())?
        };
        let ended = self.run_until(request, source, &deadline, &switch, termination);
        deadline.command_ended();
        match (deadline.fired(), ended) {
            (None, ended) => ended,
            (Some(failure), ended) => Ok(Ended {
                how: How::TimedOut(failure),
                captured: ended.map(|ended| ended.captured).unwrap_or_default(),
            }),
        }
    }

    /// A stream to the agent. Waits for a guest that boots, which has its own time limit, and wakes one that is
    /// suspended.
    fn connect(&self, deadline: &Deadline) -> Result<UnixStream, Failure> {
        let connect = |client: &Client| match client.connect(AGENT_PORT) {
            Err(ClientError::Refused {
                state: Some(State::Starting),
                ..
            }) if deadline.fired().is_none() => Ok(None),
            connected => connected.map(Some),
        };
        loop {
            match ask(&self.directory, self.name, connect) {
                Ok((_, Some(stream))) => return Ok(stream),
                Ok((_, None)) => thread::sleep(INTERVAL),
                Err(_) if state_of(&self.directory)?.0 == State::Suspended => {
                    wake(&self.directory, self.name, self.settings)?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn run_until(
        &self,
        request: Exec,
        source: Option<Box<dyn Source>>,
        deadline: &Deadline,
        switch: &KillSwitch,
        termination: &Termination,
    ) -> Result<Ended, Failure> {
        let stream = self.connect(deadline)?;
        let host = |error| Failure::caused(ErrorKind::Host, &error).exits(EXIT_RUN_FAILED);
        switch.connected(stream.try_clone().map_err(host)?);
        let sink = CommandSink::new(self.settings.output).map_err(|error| stdout_error(&error))?;
        let (ended, captured) = match request.output {
            Output::Terminal(_) => {
                let mut sink = Armed {
                    switch,
                    inner: TerminalSink::new(sink, termination),
                };
                let ended = session::attach(stream, request, source, &mut sink);
                if let Some(error) = sink.inner.failed.take() {
                    return Err(host(error));
                }
                (ended, Captured::default())
            }
            _ => {
                let mut sink = Armed {
                    switch,
                    inner: sink,
                };
                let ended = session::attach(stream, request, source, &mut sink);
                (ended, sink.inner.into_captured())
            }
        };
        let how = match ended {
            Ok(end) => How::Session(end),
            // What was captured until then is of use.
            Err(_) if deadline.fired().is_some() => How::StdoutClosed,
            Err(SessionError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                How::StdoutClosed
            }
            Err(SessionError::Output(error)) => return Err(stdout_error(&error)),
            Err(SessionError::Refused(failure)) => return Err(exec_failure(&failure)),
            Err(error) => {
                return Err(Failure::from(MachineError::Session(error)).exits(EXIT_RUN_FAILED));
            }
        };
        Ok(Ended { how, captured })
    }
}

/// Kills a command from another thread, wherever the main thread is.
#[derive(Debug, Clone, Default)]
struct KillSwitch(Arc<Mutex<Stage>>);

/// How far the command is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Unconnected,
    Connected(UnixStream),
    Started(Control),
    Killed,
}

impl KillSwitch {
    fn kill(&self) {
        match self.replace(Stage::Killed) {
            // The guest kills the command of a session that is closed.
            Stage::Connected(stream) => drop(stream.shutdown(Shutdown::Both)),
            // So that its end is awaited.
            Stage::Started(control) if control.kill().is_ok() => {}
            Stage::Started(control) => control.hang_up(),
            Stage::Unconnected | Stage::Killed => {}
        }
    }

    fn connected(&self, stream: UnixStream) {
        if let Stage::Killed = self.replace(Stage::Connected(stream)) {
            self.kill();
        }
    }

    fn started(&self, control: &Control) {
        if let Stage::Killed = self.replace(Stage::Started(control.clone())) {
            self.kill();
        }
    }

    fn replace(&self, stage: Stage) -> Stage {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, stage)
    }
}

/// A sink that arms the switch when the command is started.
struct Armed<'a, S> {
    switch: &'a KillSwitch,
    inner: S,
}

impl<S: Sink> Sink for Armed<'_, S> {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.stdout(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.stderr(bytes)
    }

    fn started(&mut self, control: &Control) {
        self.switch.started(control);
        self.inner.started(control);
    }
}
