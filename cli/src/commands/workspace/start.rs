//! `microagent start`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_workspace::lock::Lock;
use microagent_workspace::machine::boot::BOOT_ATTEMPTS;
use microagent_workspace::shim;
use microagent_workspace::shim::spawn::{SpawnError, spawn};
use microagent_workspace::start::{StartOptions, shim_config};

use tracing_subscriber::filter::LevelFilter;

use super::create::random_id;
use super::{get, print_state, state_of};
use crate::args::StartArgs;
use crate::engine;
use crate::failure::{Failure, kind_of};
use crate::install;
use crate::request::resources::{self, ResourceArgs};
use crate::run::artifacts::check_memory;
use crate::settings::Settings;

/// First argument of the process that starts a shim and ends.
const DETACH_MODE: &str = "--start-workspace-shim";

/// First argument of a shim's process.
const SHIM_MODE: &str = "--workspace-shim";

/// Runs a shim, or starts one, if that is what `words` say.
pub fn run_shim_mode(words: &[OsString]) -> Option<ExitCode> {
    let mode = words.get(1)?.to_str()?;
    let ended = match mode {
        DETACH_MODE => shim::spawn::detach(&program(), SHIM_MODE),
        SHIM_MODE => {
            // Standard error becomes the workspace's console.
            tracing_subscriber::fmt()
                .with_max_level(LevelFilter::WARN)
                .with_ansi(false)
                .with_target(false)
                .with_writer(std::io::stderr)
                .init();
            shim::spawn::main()
        }
        _ => return None,
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// This program.
fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"))
}

/// Starts a workspace, and returns when its guest is ready and its workload was executed.
pub fn start(args: &StartArgs, settings: &Settings) -> Result<u8, Failure> {
    let mut attempt = 1;
    loop {
        match try_start(args, attempt, settings) {
            Err(failure) if failure.kind == ErrorKind::Timeout && attempt < BOOT_ATTEMPTS => {
                tracing::warn!("the guest did not boot and is started again");
            }
            done => return done,
        }
        attempt += 1;
    }
}

fn try_start(args: &StartArgs, attempt: u32, settings: &Settings) -> Result<u8, Failure> {
    let name = &args.name;
    let given = ResourceArgs {
        memory: args.memory.as_deref(),
        cpus: args.cpus.as_deref(),
        ..ResourceArgs::default()
    };
    let resources = resources::resolve(&given, resources::host_cpus())?;
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
        memory_mib: args.memory.as_ref().map(|_| resources.memory_mib),
        cpu_count: args.cpus.as_ref().map(|_| resources.cpu_count),
        attempt,
    };
    let config = shim_config(&directory, &spec, &store, options)
        .map_err(|error| Failure::caused(ErrorKind::Corrupt, &error))?;
    if let Some(initramfs) = &config.vm.initramfs {
        let vm = &config.vm;
        check_memory(&vm.kernel, initramfs, vm.memory_mib, vm.cpus)?;
    }
    spawn(&program(), DETACH_MODE, &config, lock).map_err(|error| match error {
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
