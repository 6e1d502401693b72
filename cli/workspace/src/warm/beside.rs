//! A process that takes a snapshot beside the command that lacked it, and outlives that.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::{Pipeline, Silent};
use microagent_proto::control::VmConfig;
use microagent_proto::error_chain;
use serde::{Deserialize, Serialize};

use super::snapshots::Snapshots;
use super::{Refused, WarmError, take};
use crate::machine::run_dir::RunDir;

/// How much lower its priority is (setpriority(2)): the lowest.
const NICE: i32 = 19;

/// The argument of the process, which must call [`main`] then.
pub const MODE: &str = "__take-snapshot";

/// What is taken, on the standard input of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// Where to.
    pub snapshots: Snapshots,
    /// The VM whose shape the snapshot has.
    pub config: VmConfig,
}

/// Starts this program with the argument [`MODE`]. Does not wait for it. Descriptors that this process has
/// now are no longer passed on to others.
///
/// # Errors
/// When the process cannot be started.
pub fn start(request: &Request) -> io::Result<Child> {
    let text = serde_json::to_vec(request)?;
    // It must not keep open what this process got from its caller.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut child = Command::new(std::env::current_exe()?)
        .arg(MODE)
        // It must not keep the caller's file system busy.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&text)?;
    }
    Ok(child)
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
    let Snapshots {
        store: root,
        host_dir,
        programs,
    } = request.snapshots;
    let (programs, config) = (&programs, &request.config);
    let taken = Store::open(&root)
        .map_err(WarmError::from)
        .and_then(|store| {
            let pipeline = Pipeline::new(store, Arc::new(Silent));
            take(&pipeline, programs, config, false, RunDir::create()?)
        });
    let refused = Refused::new(host_dir);
    refused.clean(&root);
    match taken {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = format!("it could not be taken: {}", error_chain(&error));
            refused.record(programs, config, &why)
        }
    }
}
