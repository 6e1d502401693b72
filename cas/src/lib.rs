//! The content-addressed store: everything the pipeline has fetched or built, by digest.
//!
//! # On disk
//! ```text
//! <root>/oci-layout            ┐ a valid OCI image layout: skopeo, umoci, crane and oras
//! <root>/index.json            │ read it as it is
//! <root>/blobs/sha256/<hex>    ┘
//! <root>/sparse/<hex>          disks, by the digest of their chunk map (sparse.rs)
//! <root>/store.json            the format version and its feature tiers (format.rs)
//! <root>/nodes/<hex>.json      node key -> outputs (node.rs)
//! <root>/roots/<name>.json     what garbage collection must keep (root.rs)
//! <root>/leases/               what living processes use (lease.rs)
//! <root>/subjects/<hex>.json   which node stands for an image now, and which did before (subject.rs)
//! <root>/known/<hex>.json      digests of files elsewhere (known_file.rs)
//! <root>/partial/<hex>         what has come of a blob that was interrupted (partial.rs)
//! <root>/quarantine/           what was found damaged (verify.rs)
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
//! - Many processes and threads share one store. Lock order: a node lock, then the gate of
//!   collection, then the index lock, then the gate of `tmp/`; none of them is taken twice by one
//!   thread.
//! - What a living process has seen in the store stays for as long as that has it open (lease.rs).
//!
//! # Where to look
//! [`Store`] opens the directory; [`BlobWriter`] and [`Scratch`] bring bytes in, [`Blob`] hands
//! them out; [`NodeKey`] and [`NodeRecord`] are the memory of what was computed from what.
//! [`Store::inventory`], [`Store::collect`] and [`Store::verify`] are for who keeps house.

mod blob;
mod canonical;
mod digest;
mod error;
mod format;
mod gc;
mod index;
mod inventory;
mod known_file;
mod lease;
mod lock;
mod node;
mod output;
mod parallel;
mod partial;
mod root;
mod scratch;
mod sparse;
mod store;
mod subject;
mod temporary;
mod verify;

pub use blob::{Blob, BlobWriter, digest_file};
pub use digest::{Digest, Hasher, InvalidDigest};
pub use error::{FailedIo, StoreError};
pub use format::FORMAT;
pub use gc::{GcOptions, GcReport};
pub use inventory::{Inventory, KnownImage, KnownNode, ObjectSize};
pub use lease::LeaseHolder;
pub use lock::NodeLock;
pub use node::{Input, KeyMaterial, NODE_FORMAT, NodeKey, NodeRecord};
pub use output::Output;
pub use root::{ROOT_FORMAT, RootRecord};
pub use scratch::{Scratch, ScratchDir};
pub use sparse::{CHUNK_SIZE, ChunkMap, SPARSE_FORMAT};
pub use store::{Store, Swept};
pub use subject::{Material, Moved, SubjectRecord};
pub use verify::{Problem, Verified};
