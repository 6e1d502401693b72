//! Booting a workspace that does not run for its files: `cp` into it, and the replay of its journal.

use std::error::Error;
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::creation::random_id;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::event::{self, Event, now};
use microagent_workspace::lock::Lock;
use microagent_workspace::machine::boot::BOOT_ATTEMPTS;
use microagent_workspace::machine::files::FilesError;
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::shim::config::Origin;
use microagent_workspace::short_boot::{ShortBoot, ShortBootError};
use microagent_workspace::spec::Spec;
use microagent_workspace::start::{StartOptions, recorded, role};
use microagent_workspace::state::State;

use super::wake::wake;
use super::{INTERVAL, client_failure, lock, state_of};
use crate::engine::{self, Choice};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;
use crate::termination::Termination;

/// How long the guest may take for the next part of a copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a workspace that another command has booted for its files is waited for.
const TURN_TIMEOUT: Duration = Duration::from_secs(300);

/// How the files of a workspace are reached.
pub(super) enum Access {
    /// It runs: through its agent.
    Agent(Client),
    /// It does not: nobody starts it while the lock is held.
    Stopped(Lock),
}

/// How the files of a workspace are written to. Waits for other commands that write to them, and wakes a
/// suspended one.
pub(super) fn access(
    directory: &WorkspaceDir,
    name: &str,
    settings: &Settings,
) -> Result<Access, Failure> {
    loop {
        if let Some(client) = living(directory, name, settings)? {
            return Ok(Access::Agent(client));
        }
        if let Some(lock) = lock(&directory.lock())? {
            return Ok(Access::Stopped(lock));
        }
    }
}

/// The client of a workspace; `None` if it does not run. Waits for commands that have booted it for
/// its files, and wakes a suspended one.
pub(super) fn living(
    directory: &WorkspaceDir,
    name: &str,
    settings: &Settings,
) -> Result<Option<Client>, Failure> {
    let deadline = Instant::now() + TURN_TIMEOUT;
    loop {
        wake(directory, name, settings)?;
        let (state, _) = state_of(directory)?;
        if !state.is_live() && state != State::Suspended {
            return Ok(None);
        }
        let found = Client::new(directory);
        match found.and_then(|client| client.status().map(|status| (client, status.state))) {
            // It is just being saved.
            Ok((_, State::Suspended)) => {}
            Ok((client, _)) => return Ok(Some(client)),
            Err(ClientError::NotRunning) if Instant::now() < deadline => {}
            Err(error) => return Err(client_failure(error, name)),
        }
        thread::sleep(INTERVAL);
    }
}

/// Boots a workspace whose lock the caller holds, with its network if it is `connected`.
pub(super) fn start(
    directory: &WorkspaceDir,
    spec: &Spec,
    (store, connected): (&Store, bool),
    choice: &Choice,
    settings: &Settings,
    termination: &Termination,
) -> Result<ShortBoot, Failure> {
    let options = StartOptions {
        engine: choice.engine,
        supervisor: super::starting::supervisor(spec)?,
        request_id: String::new(),
        memory_mib: None,
        cpu_count: None,
        boot: None,
        attempt: BOOT_ATTEMPTS,
        origin: Origin::Boot,
        programs: None,
    };
    let run_dir = RunDir::create()?;
    termination.remove_on_exit(run_dir.path());
    let verbose = settings.output.verbose > 1;
    let booted = ShortBoot::start(directory, spec, store, options, run_dir, connected, verbose)?;
    Ok(booted)
}

/// Replays the journals of the disks of a workspace.
pub(super) fn replay(
    directory: &WorkspaceDir,
    name: &str,
    settings: &Settings,
    termination: &Termination,
) -> Result<(), Failure> {
    let Access::Stopped(lock) = access(directory, name, settings)? else {
        let message = format!("workspace {name} is running");
        return Err(Failure::new(ErrorKind::Conflict, message));
    };
    let notice = format!("{name} was not shut down; its file system is repaired first");
    settings.output.notice(&notice);
    let detail = "booted to replay the journal of its file system";
    with_files(&lock, directory, detail, settings, termination, |_| Ok(()))
}

/// Boots a workspace, calls `work` with a stream to its agent, and shuts it down. The history of the
/// workspace then has an event with `detail`; the state is as before.
pub(super) fn with_files<T>(
    _: &Lock,
    directory: &WorkspaceDir,
    detail: &str,
    settings: &Settings,
    termination: &Termination,
    work: impl FnOnce(UnixStream) -> Result<T, FilesError>,
) -> Result<T, Failure> {
    let spec = directory.spec()?;
    let store = Store::open(&settings.store_dir())?;
    let choice = engine::choose_with_notice(settings)?;
    let offline = (&store, false);
    let booted = start(directory, &spec, offline, &choice, settings, termination)?;
    let done = booted
        .connect()
        .map_err(Failure::from)
        .and_then(|stream| work(limited(stream)?).map_err(files_failure));
    // Whatever came of it: the file system is unmounted.
    let finished = booted.finish();
    let done = done?;
    finished?;
    note(directory, &spec, &choice, detail)?;
    Ok(done)
}

/// A stream that fails when the guest does nothing for a while.
fn limited(stream: UnixStream) -> Result<UnixStream, Failure> {
    let set = stream
        .set_read_timeout(Some(COPY_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(COPY_TIMEOUT)));
    set.map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    Ok(stream)
}

fn files_failure(error: FilesError) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(source) = cause {
        let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        if source.downcast_ref().is_some_and(timed_out) {
            let seconds = COPY_TIMEOUT.as_secs();
            let message = format!("the guest has not answered within {seconds} s");
            return Failure::new(ErrorKind::Timeout, message);
        }
        cause = source.source();
    }
    error.into()
}

fn note(
    directory: &WorkspaceDir,
    spec: &Spec,
    choice: &Choice,
    detail: &str,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(kind_of(&error), format!("cannot record the event: {error}"))
    };
    let last = event::last(directory.path()).map_err(failed)?;
    let state = last.map_or(State::Failed, |event| event.state);
    let event = Event {
        request_id: random_id()?,
        runtime_id: recorded(spec)?.runtime_id.clone(),
        role: role(spec).to_owned(),
        engine: Some(choice.engine.name().to_owned()),
        // The lock is that of this process.
        state: State::compute(state, false),
        observed_at: now(),
        detail: Some(detail.to_owned()),
    };
    event::note(directory.path(), event).map_err(failed)
}

impl From<ShortBootError> for Failure {
    fn from(error: ShortBootError) -> Failure {
        match error {
            ShortBootError::Manifest(error) => error.into(),
            ShortBootError::Machine(error) => error.into(),
            ShortBootError::Network(error) => error.into(),
            error @ ShortBootError::Running => Failure::caused(ErrorKind::Guest, &error),
            error => Failure::caused(ErrorKind::Host, &error),
        }
    }
}
