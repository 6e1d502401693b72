//! The content-addressed store: everything the pipeline fetched or built, by digest.
//!
//! # On disk
//! ```text
//! <root>/oci-layout            ┐ a valid OCI image layout: skopeo, umoci, crane and oras
//! <root>/index.json            │ read it as it is
//! <root>/blobs/sha256/<hex>    ┘
//! <root>/sparse/<hex>          disks, by the digest of their chunk map (object/chunk_map.rs)
//! <root>/store.json            the format version and its feature tiers (format.rs)
//! <root>/nodes/<hex>.json      node key -> outputs (record/node.rs)
//! <root>/roots/<name>.json     what garbage collection must keep (record/root.rs)
//! <root>/leases/               objects in use by running processes (lease.rs)
//! <root>/subjects/<hex>.json   current and previous node of an image (record/subject.rs)
//! <root>/known/<hex>.json      digests of files outside the store (record/known_file.rs)
//! <root>/partial/<hex>         interrupted downloads (object/partial.rs)
//! <root>/quarantine/           damaged objects (maintenance/verify.rs)
//! <root>/locks/                flock(2) targets; their content is never read
//! <root>/tmp/                  files being written; private to their writer
//! ```
//!
//! # Invariants
//! - A blob is either absent or complete and correct: it is written to an unnamed file, hashed,
//!   synced, made read-only and only then linked under its digest. Completed writes survive a
//!   power failure.
//! - `kill -9` leaves at most files in `tmp/` and `locks/` whose owner is dead. Ownership is a
//!   held lock, not a pid, so [`Store::sweep`] can detect this.
//! - Many processes and threads share one store. Lock order: node lock, collection gate, index
//!   lock, gate of `tmp/`; no thread takes any of them twice.
//! - An object that a process has seen in the store is kept until the process closes the store
//!   (lease.rs).
//!
//! # Floors
//! A module imports only from lower floors. Methods of [`Store`] are implemented in the module
//! they belong to, which may be above `store`.
//! ```text
//! maintenance/  gc, verify
//!               inventory, sweep         content of a store; leftovers of dead processes
//! record/       subject
//!               node, root, index, known_file
//! object/       verified
//!               sparse, partial
//!               scratch, blob, chunk_map
//! store         opening a store
//! lease, format
//! file/         temporary
//!               seal                     whether an object was changed after it was published
//!               partial                  an incomplete file that a later process completes
//!               lock, hash, read, directory
//! layout        the paths of a store
//! canonical, parallel, output, error
//! digest
//! ```
//! [`Store`] opens the directory; [`BlobWriter`] and [`Scratch`] write objects, [`Blob`] reads
//! them; [`NodeRecord`] under its [`NodeKey`] records what was computed from what.
//! [`Store::inventory`], [`Store::collect`] and [`Store::verify`] are for cache maintenance.

mod canonical;
mod digest;
mod error;
mod file;
mod format;
mod layout;
mod lease;
mod maintenance;
mod object;
mod output;
mod parallel;
mod record;
mod store;

pub use digest::{Digest, Hasher, InvalidDigest};
pub use error::{FailedIo, StoreError};
pub use file::hash::digest_file;
pub use file::lock::NodeLock;
pub use format::FORMAT;
pub use lease::LeaseHolder;
pub use maintenance::gc::{GcOptions, GcReport};
pub use maintenance::inventory::{Inventory, KnownImage, KnownNode, ObjectSize};
pub use maintenance::sweep::SweepReport;
pub use maintenance::verify::{Problem, VerifyReport};
pub use object::blob::{Blob, BlobWriter};
pub use object::chunk_map::{CHUNK_SIZE, ChunkMap, SPARSE_FORMAT};
pub use object::scratch::{Scratch, ScratchDir};
pub use object::verified::VerifiedReader;
pub use output::Output;
pub use record::node::{Input, KeyMaterial, NODE_FORMAT, NodeKey, NodeRecord};
pub use record::root::{ROOT_FORMAT, RootRecord};
pub use record::subject::{Material, MaterialChange, SubjectRecord};
pub use store::Store;
