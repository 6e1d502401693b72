//! The events of one start.

use std::io;
use std::path::PathBuf;

use rustix::system::uname;

use super::config::ShimConfig;
use super::subscribers::Subscribers;
use crate::event::{Event, note, now, record};
use crate::quarantine::Facts;
use crate::state::State;

/// Records events with the identity of a start.
#[derive(Debug, Clone)]
pub struct Recorder {
    directory: PathBuf,
    request_id: String,
    runtime_id: String,
    role: String,
    engine: String,
    subscribers: Subscribers,
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
            subscribers: Subscribers::default(),
        }
    }

    /// Records that the workspace is now in `state`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn record(&self, state: State, detail: Option<&str>) -> io::Result<()> {
        let event = self.event(state, detail);
        record(&self.directory, event.clone())?;
        self.subscribers.publish(&event);
        Ok(())
    }

    /// Records that something happened which does not change the `state`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn note(&self, state: State, detail: &str) -> io::Result<()> {
        let event = self.event(state, Some(detail));
        note(&self.directory, event.clone())?;
        self.subscribers.publish(&event);
        Ok(())
    }

    /// Who is told of the events.
    pub fn subscribers(&self) -> &Subscribers {
        &self.subscribers
    }

    /// What is known about this start, and nothing about its VM.
    pub fn facts(&self) -> Facts {
        Facts {
            captured_at: now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_id: self.runtime_id.clone(),
            request_id: self.request_id.clone(),
            engine: self.engine.clone(),
            host_kernel: uname().release().to_string_lossy().into_owned(),
            uptime_millis: 0,
            stats: None,
            processes: Vec::new(),
            files: Vec::new(),
        }
    }

    fn event(&self, state: State, detail: Option<&str>) -> Event {
        Event {
            request_id: self.request_id.clone(),
            runtime_id: self.runtime_id.clone(),
            role: self.role.clone(),
            engine: Some(self.engine.clone()),
            state,
            observed_at: now(),
            detail: detail.map(str::to_owned),
        }
    }
}
