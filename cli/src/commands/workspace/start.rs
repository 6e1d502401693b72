//! `microagent start`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::lock::Lock;
use microagent_workspace::shim;
use microagent_workspace::shim::spawn::{SpawnError, spawn};
use microagent_workspace::start::{StartOptions, shim_config};

use super::create::random_id;
use super::{get, print_state, state_of};
use crate::args::NameArgs;
use crate::engine;
use crate::failure::{Failure, kind_of};
use crate::install;
use crate::settings::Settings;

/// First argument of a shim's process.
const SHIM_MODE: &str = "--workspace-shim";

/// Runs a shim if that is what `words` say.
pub fn run_shim_mode(words: &[OsString]) -> Option<ExitCode> {
    if words.get(1).is_none_or(|word| word != SHIM_MODE) {
        return None;
    }
    Some(match shim::spawn::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Starts a workspace, and returns when its guest is ready and its workload was executed.
pub fn start(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let directory = get(settings, name)?;
    let path = directory.lock();
    let lock = Lock::acquire(&path).map_err(|error| {
        Failure::new(
            kind_of(&error),
            format!("cannot lock {}: {error}", path.display()),
        )
    })?;
    let Some(lock) = lock else {
        return Err(Failure::new(
            ErrorKind::Conflict,
            format!("workspace {name} is already running"),
        )
        .remediation(format!("stop it first: microagent stop {name}")));
    };
    let spec = directory.spec()?;
    let choice = engine::choose_with_notice(settings)?;
    let store = Store::open(&settings.store_dir())?;
    let options = StartOptions {
        engine: choice.engine,
        supervisor: install::find(install::SUPERVISOR)?,
        request_id: random_id()?,
        memory_mib: None,
        cpu_count: None,
    };
    let config = shim_config(&directory, &spec, &store, options)
        .map_err(|error| Failure::caused(ErrorKind::Corrupt, &error))?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    spawn(&program, SHIM_MODE, &config, lock).map_err(|error| match error {
        SpawnError::Failed {
            kind,
            message,
            remediation,
        } => Failure::new(
            ErrorKind::from_name(&kind).unwrap_or(ErrorKind::Host),
            message,
        )
        .maybe_remediation(remediation),
        error => Failure::caused(ErrorKind::Host, &error)
            .remediation(format!("see its console: microagent logs --console {name}")),
    })?;
    let (state, _) = state_of(&directory)?;
    print_state(settings, name, state)
}
