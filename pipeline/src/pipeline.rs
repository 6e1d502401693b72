//! The handle that every node is computed through: a store, a listener, and
//! the list of what was asked for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use microagent_cas::{Digest, NodeKey, Store};

use crate::engine::progress::{Event, Progress};
use crate::source::Registries;

/// The build pipeline. A clone is the same pipeline.
#[derive(Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
    registries: Registries,
}

struct Inner {
    store: Store,
    progress: Arc<dyn Progress>,
    reports: Mutex<Vec<NodeReport>>,
}

/// A node that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// The operation.
    pub op: String,
    /// The node.
    pub key: NodeKey,
    /// Its main output.
    pub output: Option<Digest>,
    /// Whether it was there already.
    pub hit: bool,
    /// How long the answer took, in milliseconds.
    pub millis: f64,
}

impl Pipeline {
    /// A pipeline that keeps everything in `store` and tells `progress`.
    pub fn new(store: Store, progress: Arc<dyn Progress>) -> Pipeline {
        Pipeline {
            inner: Arc::new(Inner {
                store,
                progress,
                reports: Mutex::new(Vec::new()),
            }),
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
        &self.inner.store
    }

    /// The nodes asked for so far, in the order in which they were answered.
    pub fn reports(&self) -> Vec<NodeReport> {
        let reports = self.inner.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds to [`Pipeline::reports`].
    pub(crate) fn report(&self, report: NodeReport) {
        let reports = self.inner.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).push(report);
    }

    /// Tells the listener.
    pub(crate) fn tell(&self, event: Event) {
        self.inner.progress.event(event);
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}
