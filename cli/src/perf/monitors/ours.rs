//! Our own monitor, measured alone.

use std::path::Path;
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::RESET_AT_ONCE;
use microagent_proto::control::{Engine, VmConfig};
use microagent_workspace::machine::supervisor::Supervisor;

use super::guest::Guest;
use crate::failure::Failure;
use crate::run::phases::millis;

/// Time limit of one boot.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How to run our monitor.
#[derive(Debug)]
pub struct Ours<'a> {
    /// Path of the supervisor.
    pub supervisor: &'a Path,
    /// The engine.
    pub engine: Engine,
    /// A directory for sockets and files of the VM.
    pub run_dir: &'a Path,
}

impl Ours<'_> {
    /// Milliseconds from the spawn of the supervisor to its report that the guest has stopped.
    pub(super) fn boot(&self, guest: &Guest) -> Result<f64, Failure> {
        let config = VmConfig {
            name: "perf".into(),
            engine: self.engine,
            cpus: guest.cpus,
            memory_mib: guest.memory_mib,
            kernel: guest.kernel.clone(),
            initramfs: guest.initramfs.clone(),
            extra_cmdline: Some(format!("-- {RESET_AT_ONCE}")),
            disks: Vec::new(),
            run_dir: self.run_dir.to_owned(),
            console_to_stderr: false,
            listen: Vec::new(),
            net: None,
            saved: None,
        };
        let begun = Instant::now();
        let supervisor = Supervisor::spawn(self.supervisor, self.engine, false)?;
        supervisor.start(config, None)?;
        match supervisor.wait_until_stopped(TIMEOUT) {
            Some(_) => Ok(millis(begun.elapsed())),
            None => Err(supervisor.exit_reason().map_or_else(
                || Failure::new(ErrorKind::Timeout, "the measured guest did not end"),
                Failure::from,
            )),
        }
    }
}
