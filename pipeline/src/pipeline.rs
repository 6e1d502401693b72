//! The handle that every node is computed through: a store, a listener, and
//! the list of what was asked for.

use std::sync::Arc;

use microagent_cas::{Store, StoreError};

use crate::engine::node::{NodeOutcome, NodeSpec, Outputs};
use crate::engine::progress::{Event, Progress};
use crate::engine::{Engine, NodeReport};
use crate::error::Error;
use crate::source::Registries;

/// The build pipeline. A clone is the same pipeline.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub(crate) engine: Engine,
    registries: Registries,
}

impl Pipeline {
    /// A pipeline that keeps everything in `store` and tells `progress`.
    pub fn new(store: Store, progress: Arc<dyn Progress>) -> Pipeline {
        Pipeline {
            engine: Engine::new(store, progress),
            registries: Registries::default(),
        }
    }

    /// The same with what is known of registries: their mirrors, and which of
    /// them are insecure.
    #[must_use]
    pub fn with_registries(self, registries: Registries) -> Pipeline {
        Pipeline { registries, ..self }
    }

    /// What is known of registries.
    pub(crate) fn registries(&self) -> &Registries {
        &self.registries
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.engine.store()
    }

    /// The nodes asked for so far, in the order in which they were answered.
    pub fn reports(&self) -> Vec<NodeReport> {
        self.engine.reports()
    }

    pub(crate) fn node(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, Error>,
    ) -> Result<NodeOutcome, Error> {
        self.engine.node(spec, compute)
    }

    pub(crate) fn observe(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, Error>,
    ) -> Result<NodeOutcome, Error> {
        self.engine.observe(spec, compute)
    }

    pub(crate) fn observe_quietly(
        &self,
        spec: NodeSpec,
        outputs: Outputs,
    ) -> Result<microagent_cas::NodeRecord, StoreError> {
        self.engine.observe_quietly(spec, outputs)
    }

    /// Tells the listener.
    pub(crate) fn tell(&self, event: Event) {
        self.engine.emit(event);
    }
}
