//! What the pipeline tells while it works. It never prints: whoever builds a
//! [`crate::Pipeline`] decides what a person sees.

/// Receives what happens, from any thread, in the order it happens there.
pub trait Progress: Send + Sync {
    /// Something happened. Must return quickly; the work waits for it.
    fn event(&self, event: Event);
}

/// A kind of work, named for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Asking what a reference means.
    Resolve,
    /// Bringing a layer here.
    Fetch,
    /// Decompressing and indexing a layer.
    Unpack,
    /// Writing the root file system.
    Rootfs,
    /// Making a disk from a tar bundle.
    Bundle,
    /// Getting a guest kernel.
    Kernel,
    /// Packing the initramfs.
    Initramfs,
    /// Reading the store again.
    Verify,
    /// Writing an image to an archive.
    Export,
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
        }
    }
}

/// Something that happened. A piece of work is told apart by stage and detail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Work began.
    StageStarted {
        /// Which kind.
        stage: Stage,
        /// On what: a short digest, a file, a package.
        detail: String,
        /// How many bytes it is, where that is known.
        total_bytes: Option<u64>,
    },
    /// Work went on.
    Advanced {
        /// Which kind.
        stage: Stage,
        /// On what.
        detail: String,
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// Work ended well. After a failure nothing more comes for the stage.
    StageDone {
        /// Which kind.
        stage: Stage,
        /// On what.
        detail: String,
    },
    /// Something worth a line of its own.
    Notice(String),
}

/// Says nothing to anybody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}
