//! Whether the VM of a run is restored from a snapshot, and whether one is taken for the next.

use std::path::PathBuf;

use microagent_pipeline::Pipeline;
use microagent_proto::control::VmConfig;
use microagent_proto::error_chain;
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::reaper;
use microagent_workspace::machine::timeline::Arrival;
use microagent_workspace::warm::beside::{self, Request};
use microagent_workspace::warm::{self, Programs, Refused};

/// The argument of a process that takes a snapshot.
pub const TAKE_MODE: &str = "__take-snapshot";

/// The snapshots that a run may use.
#[derive(Debug)]
pub struct Warm {
    pipeline: Pipeline,
    programs: Programs,
    host_dir: PathBuf,
    /// The VM that was looked up.
    config: Option<VmConfig>,
    /// It has no snapshot, and one may be taken.
    missing: bool,
}

impl Warm {
    /// For VMs of these programs. `host_dir` has facts about the host, and exists.
    pub fn new(pipeline: &Pipeline, programs: Programs, host_dir: PathBuf) -> Warm {
        Warm {
            pipeline: pipeline.clone(),
            programs,
            host_dir,
            config: None,
            missing: false,
        }
    }

    /// Lets the VM be restored from a snapshot, if there is one.
    pub fn look_up(&mut self, config: &mut VmConfig) {
        if let Some(why) = self.refused().why(&self.programs, config) {
            tracing::info!("the VM boots, because its snapshot recently failed: {why}");
            return;
        }
        match warm::find(&self.pipeline, &self.programs, config, &self.host_dir) {
            Ok(Some(snapshot)) => config.saved = Some(snapshot),
            Ok(None) => {
                tracing::info!("the VM boots, because there is no snapshot for it");
                self.missing = true;
            }
            Err(error) => tracing::info!(
                "the VM boots, because its snapshot cannot be looked up: {}",
                error_chain(&error)
            ),
        }
        self.config = Some(config.clone());
    }

    /// Remembers that the monitor could not use the snapshot.
    pub fn came_up(&self, arrival: &Arrival) {
        if let Arrival::Booted(ready) = arrival
            && let Some(why) = &ready.not_restored
        {
            tracing::info!("the VM boots, because its snapshot cannot be used: {why}");
            self.refuse(why);
        }
    }

    /// Remembers that a VM failed after it was restored.
    pub fn failed(&self, error: &MachineError) {
        self.refuse(&format!("a VM failed: {}", error_chain(error)));
    }

    /// Starts a process that takes the snapshot that the VM lacked, and outlives this one. Without effect
    /// where nothing would reap it.
    pub fn take_beside(self) {
        let Some(config) = self.config.filter(|_| self.missing) else {
            return;
        };
        if !reaper::reaps_orphans() {
            return;
        }
        let request = Request {
            store: self.pipeline.store().root().to_owned(),
            refused: self.host_dir,
            programs: self.programs,
            config,
        };
        let started = std::env::current_exe()
            .and_then(|program| beside::start(&program, TAKE_MODE, &request));
        if let Err(error) = started {
            tracing::info!("no snapshot is taken: {error}");
        }
    }

    fn refused(&self) -> Refused {
        Refused::new(self.host_dir.clone())
    }

    fn refuse(&self, why: &str) {
        let Some(config) = &self.config else {
            return;
        };
        if let Err(error) = self.refused().record(&self.programs, config, why) {
            tracing::info!("cannot record that a snapshot failed: {error}");
        }
    }
}
