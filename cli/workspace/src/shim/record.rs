//! The events of one start.

use std::io;
use std::path::PathBuf;

use super::config::ShimConfig;
use crate::event::{Event, now, record};
use crate::state::State;

/// Records events with the identity of a start.
#[derive(Debug, Clone)]
pub struct Recorder {
    directory: PathBuf,
    request_id: String,
    runtime_id: String,
    role: String,
    engine: String,
}

impl Recorder {
    /// For the workspace that `config` describes.
    pub fn new(config: &ShimConfig) -> Recorder {
        Recorder {
            directory: config.directory.clone(),
            request_id: config.request_id.clone(),
            runtime_id: config.runtime_id.clone(),
            role: config.role.clone(),
            engine: config.vm.engine.name().to_owned(),
        }
    }

    /// Records that the workspace is now in `state`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn record(&self, state: State, detail: Option<&str>) -> io::Result<()> {
        let event = Event {
            request_id: self.request_id.clone(),
            runtime_id: self.runtime_id.clone(),
            role: self.role.clone(),
            engine: Some(self.engine.clone()),
            state,
            observed_at: now(),
            detail: detail.map(str::to_owned),
        };
        record(&self.directory, event)
    }
}
