//! The engine that computes nodes: a store, a progress listener, and the list
//! of nodes that were requested.

pub(crate) mod node;
pub(crate) mod progress;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use microagent_cas::{Blob, Digest, NodeKey, Store, StoreError, VerifiedReader};

use self::progress::{Event, Progress, Stage};

/// The most damaged objects that one computation replaces before it fails. A store in which more
/// are found is on a disk that is dying, and what is written anew is damaged as well.
const MAX_HEALED: u32 = 16;

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
        let blob = self.store().open_blob(digest)?;
        blob.ok_or_else(|| self.missing(digest))
    }

    /// Opens a blob to be read and verified in one pass.
    ///
    /// # Errors
    /// When the blob is missing or cannot be opened.
    pub(crate) fn open_verified(&self, digest: &Digest) -> Result<VerifiedReader, StoreError> {
        let reader = self.store().verified_reader(digest)?;
        reader.ok_or_else(|| self.missing(digest))
    }

    fn missing(&self, digest: &Digest) -> StoreError {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        StoreError::io("open", &self.store().blob_path(digest), missing)
    }

    /// Runs `work` again if it found a damaged object, which the store has then set aside: what
    /// made the object makes it anew.
    ///
    /// # Errors
    /// Those of the last run.
    pub(crate) fn healing<T, E>(
        &self,
        mut work: impl FnMut() -> Result<T, E>,
        found_damage: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        for _ in 0..MAX_HEALED {
            match work() {
                Err(error) if found_damage(&error) => self.report_damage(),
                result => return result,
            }
        }
        work()
    }

    /// Tells the user about objects that were found damaged.
    pub(crate) fn report_damage(&self) {
        for path in self.store().take_damage() {
            let path = path.display();
            self.emit(Event::Notice(format!(
                "{path} is damaged; it is set aside and made again"
            )));
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
