//! Whether a VM can be saved, and what is recorded of one that is.

use std::io;
use std::path::PathBuf;

use microagent_proto::control::{DiskMode, VmConfig};

use crate::boot::Boot;
use crate::machine::session::SessionError;
use crate::machine::supervisor::ControlError;

/// What is known about a VM that may be saved.
#[derive(Debug)]
pub struct Savable {
    /// Its configuration.
    pub vm: VmConfig,
    /// What it has booted.
    pub boot: Boot,
    /// See [`crate::saved::Facts::key`]; unknown on an engine that saves nothing.
    key: Option<String>,
}

/// Why a VM cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    #[error("engine {0} takes no snapshots")]
    Engine(&'static str),
    #[error("its disk {} is written to directly, and would not be part of the snapshot", .0.display())]
    Disk(PathBuf),
}

/// Why a workspace cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    #[error("the VM cannot be saved")]
    Vm(#[from] ControlError),
    #[error(transparent)]
    Agent(#[from] SessionError),
    #[error("the snapshot cannot be written")]
    Io(#[from] io::Error),
}

impl Savable {
    /// For a VM that has booted this.
    pub fn new(vm: VmConfig, boot: Boot, key: Option<String>) -> Savable {
        Savable { vm, boot, key }
    }

    /// The key, if the VM can be saved.
    pub fn check(&self) -> Result<&str, Obstacle> {
        let Some(key) = &self.key else {
            return Err(Obstacle::Engine(self.vm.engine.name()));
        };
        let mut disks = self.vm.disks.iter();
        match disks.find(|disk| matches!(disk.mode, DiskMode::ReadWrite)) {
            Some(disk) => Err(Obstacle::Disk(disk.path.clone())),
            None => Ok(key),
        }
    }
}
