//! Progress events. The pipeline never prints; the caller's [`Progress`]
//! decides what to show.

use microagent_cas::Digest;

/// Receives progress events from any thread; those of one thread arrive in order.
pub trait Progress: Send + Sync {
    /// Handles an event. Must return quickly: the work waits for it.
    fn event(&self, event: Event);
}

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Resolving a reference.
    Resolve,
    /// Fetching a layer.
    Fetch,
    /// Decompressing and indexing a layer.
    Unpack,
    /// Writing the root file system.
    Rootfs,
    /// Making a disk from a tar bundle.
    Bundle,
    /// Fetching or building a guest kernel.
    Kernel,
    /// Packing the initramfs.
    Initramfs,
    /// Verifying the store.
    Verify,
    /// Writing an image to an archive.
    Export,
    /// Pushing an image to a registry.
    Push,
}

impl Stage {
    /// The stage as one lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Resolve => "resolve",
            Stage::Fetch => "fetch",
            Stage::Unpack => "unpack",
            Stage::Rootfs => "rootfs",
            Stage::Bundle => "bundle",
            Stage::Kernel => "kernel",
            Stage::Initramfs => "initramfs",
            Stage::Verify => "verify",
            Stage::Export => "export",
            Stage::Push => "push",
        }
    }
}

/// A progress event. Stage and detail together identify a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The work started.
    StageStarted {
        /// The kind of work.
        stage: Stage,
        /// Its object: a short digest, a file, a package.
        detail: String,
        /// The total size in bytes, if it is known.
        total_bytes: Option<u64>,
    },
    /// The work advanced.
    Advanced {
        /// The kind of work.
        stage: Stage,
        /// Its object.
        detail: String,
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// The work succeeded. Work that fails has no final event.
    StageDone {
        /// The kind of work.
        stage: Stage,
        /// Its object.
        detail: String,
    },
    /// A message for the user.
    Notice(String),
}

/// Ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

/// The short form of a digest for messages: its first twelve hexadecimal digits.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
