//! The content-addressed store: everything the pipeline has fetched or built, by digest.
//!
//! # On disk
//! ```text
//! <root>/oci-layout            ┐ a valid OCI image layout: skopeo, umoci, crane and oras
//! <root>/index.json            │ read it as it is
//! <root>/blobs/sha256/<hex>    ┘
//! <root>/store.json            the format version and its feature tiers (format.rs)
//! <root>/nodes/<hex>.json      node key -> outputs (node.rs)
//! <root>/roots/<name>.json     what garbage collection must keep (root.rs)
//! <root>/locks/                flock(2) targets; empty files without meaning of their own
//! <root>/tmp/                  what is being written; never read by anybody else
//! ```
//!
//! # What holds at every moment
//! - A blob is either absent or whole and right: it is written to a file without a name, hashed,
//!   synced, made read-only and only then linked to its digest. What has been reported done
//!   survives a power cut.
//! - `kill -9` leaves at most files in `tmp/` and `locks/` whose owner is dead. Owners hold a
//!   lock, not a pid, so [`Store::sweep`] can tell.
//! - Many processes and threads share one store. Lock order: a node lock, then the index lock, then
//!   the gate of `tmp/`; none of them is taken twice by one thread.
//!
//! # Where to look
//! [`Store`] opens the directory; [`BlobWriter`] and [`Scratch`] bring bytes in, [`Blob`] hands
//! them out; [`NodeKey`] and [`NodeRecord`] are the memory of what was computed from what.

mod blob;
mod canonical;
mod digest;
mod error;
mod format;
mod index;
mod lock;
mod node;
mod root;
mod scratch;
mod store;
mod temporary;

pub use blob::{Blob, BlobWriter, digest_file};
pub use digest::{Digest, Hasher, InvalidDigest};
pub use error::{FailedIo, StoreError};
pub use format::FORMAT;
pub use lock::NodeLock;
pub use node::{Input, KeyMaterial, NODE_FORMAT, NodeKey, NodeRecord};
pub use root::{ROOT_FORMAT, RootRecord};
pub use scratch::{Scratch, ScratchDir};
pub use store::{Store, Swept};
