//! The engine that computes nodes: a store, a progress listener, and the list
//! of nodes that were requested.

pub(crate) mod node;
pub(crate) mod progress;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use microagent_cas::{Blob, Digest, NodeKey, Store, StoreError};

use self::progress::{Event, Progress, Stage};

/// The engine. A clone shares store, listener and reports.
#[derive(Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    progress: Arc<dyn Progress>,
    reports: Mutex<Vec<NodeReport>>,
}

/// A node that was requested.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// The operation.
    pub op: String,
    /// The node's key.
    pub key: NodeKey,
    /// Its main output.
    pub output: Option<Digest>,
    /// Whether it was found in the store.
    pub hit: bool,
    /// How long the request took, in milliseconds.
    pub millis: f64,
}

impl Engine {
    /// An engine that keeps everything in `store` and reports to `progress`.
    pub(crate) fn new(store: Store, progress: Arc<dyn Progress>) -> Engine {
        Engine {
            inner: Arc::new(Inner {
                store,
                progress,
                reports: Mutex::new(Vec::new()),
            }),
        }
    }

    /// The store.
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Opens a blob that a node record or a document names.
    ///
    /// # Errors
    /// When the blob is missing or cannot be opened.
    pub(crate) fn open(&self, digest: &Digest) -> Result<Blob, StoreError> {
        match self.store().open_blob(digest)? {
            Some(blob) => Ok(blob),
            None => Err(StoreError::io(
                "open",
                &self.store().blob_path(digest),
                io::Error::from(io::ErrorKind::NotFound),
            )),
        }
    }

    /// The nodes requested so far, in the order in which the requests finished.
    pub(crate) fn reports(&self) -> Vec<NodeReport> {
        let reports = self.inner.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self, report: NodeReport) {
        let reports = self.inner.reports.lock();
        reports.unwrap_or_else(PoisonError::into_inner).push(report);
    }

    /// Sends an event to the progress listener.
    pub(crate) fn emit(&self, event: Event) {
        self.inner.progress.event(event);
    }

    /// Runs one stage and reports its start, its progress in bytes and its end.
    /// A stage that fails has no end.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn stage<T, E>(
        &self,
        stage: Stage,
        detail: &str,
        total_bytes: Option<u64>,
        work: impl FnOnce(&dyn Fn(u64)) -> Result<T, E>,
    ) -> Result<T, E> {
        self.emit(Event::StageStarted {
            stage,
            detail: detail.to_owned(),
            total_bytes,
        });
        let done = work(&|bytes| {
            self.emit(Event::Advanced {
                stage,
                detail: detail.to_owned(),
                bytes,
            });
        })?;
        self.emit(Event::StageDone {
            stage,
            detail: detail.to_owned(),
        });
        Ok(done)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}

/// An engine with a store of its own, in a directory that lives as long as the first value.
#[cfg(test)]
pub(crate) fn for_test() -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cas")).unwrap();
    (dir, Engine::new(store, Arc::new(progress::Silent)))
}
