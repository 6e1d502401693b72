//! The content-addressed store: everything the pipeline has fetched or built, by digest.
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
//! <root>/leases/               what living processes use (lease.rs)
//! <root>/subjects/<hex>.json   which node stands for an image now, and which did before (record/subject.rs)
//! <root>/known/<hex>.json      digests of files elsewhere (record/known_file.rs)
//! <root>/partial/<hex>         what has come of a blob that was interrupted (object/partial.rs)
//! <root>/quarantine/           what was found damaged (maintenance/verify.rs)
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
//! # Floors
//! A module imports only from lower floors; methods of [`Store`] are implemented on the floor of
//! what they do.
//! ```text
//! maintenance/  gc, verify
//!               inventory, sweep         what is in a store; what dead processes left in it
//! record/       subject
//!               node, root, index, known_file
//! object/       sparse, partial
//!               scratch, blob, chunk_map
//! store         opening a store
//! lease, format
//! file/         temporary
//!               partial                  an incomplete file, completed later
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
pub use maintenance::sweep::Swept;
pub use maintenance::verify::{Problem, Verified};
pub use object::blob::{Blob, BlobWriter};
pub use object::chunk_map::{CHUNK_SIZE, ChunkMap, SPARSE_FORMAT};
pub use object::scratch::{Scratch, ScratchDir};
pub use output::Output;
pub use record::node::{Input, KeyMaterial, NODE_FORMAT, NodeKey, NodeRecord};
pub use record::root::{ROOT_FORMAT, RootRecord};
pub use record::subject::{Material, Moved, SubjectRecord};
pub use store::Store;
