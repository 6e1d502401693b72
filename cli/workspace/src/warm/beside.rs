//! A process that takes a snapshot beside the command that lacked it, and outlives that.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::{Pipeline, Silent};
use microagent_proto::control::VmConfig;
use microagent_proto::error_chain;
use serde::{Deserialize, Serialize};

use super::{Programs, Refused, WarmError, take};
use crate::machine::run_dir::RunDir;

/// How much lower its priority is (setpriority(2)): the lowest.
const NICE: i32 = 19;

/// What is taken, on the standard input of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// The store.
    pub store: PathBuf,
    /// The directory of [`Refused`].
    pub refused: PathBuf,
    /// The programs of the VM.
    pub programs: Programs,
    /// The VM whose shape the snapshot has.
    pub config: VmConfig,
}

/// Starts `program` with the argument `mode`, which must call [`main`]. Does not wait for it. It is to be
/// called last: descriptors of this process are no longer passed on to others.
///
/// # Errors
/// When the process cannot be started.
pub fn start(program: &Path, mode: &str, request: &Request) -> io::Result<()> {
    let text = serde_json::to_vec(request)?;
    // It must not keep open what this process got from its caller.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut child = Command::new(program)
        .arg(mode)
        // It must not keep the caller's file system busy.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(&text),
        None => Ok(()),
    }
}

/// The whole process.
///
/// # Errors
/// When it was started by something else than [`start`], or the reason why nothing was taken cannot be
/// recorded.
pub fn main() -> io::Result<()> {
    rustix::process::setsid()?;
    // Otherwise it is merely in the way.
    let _ = rustix::process::nice(NICE);
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let request: Request = serde_json::from_slice(&text)?;
    let (programs, config) = (&request.programs, &request.config);
    let taken = Store::open(&request.store)
        .map_err(WarmError::from)
        .and_then(|store| {
            let pipeline = Pipeline::new(store, Arc::new(Silent));
            take(&pipeline, programs, config, false, RunDir::create()?)
        });
    let refused = Refused::new(request.refused);
    refused.clean(&request.store);
    match taken {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = format!("it could not be taken: {}", error_chain(&error));
            refused.record(programs, config, &why)
        }
    }
}
