//! The build pipeline: from an image reference to something that boots.
//!
//! Every step is a node: named by the digest of its inputs, computed at most
//! once, its output a blob of the store ([`microagent_cas`]).
//!
//! ```text
//! Reference ─resolve─▶ Image ─fetch─▶ layers ─unpack─▶ tar + index ─rootfs─▶ ext4
//! ```
//!
//! | question | module |
//! |---|---|
//! | what a person may type for an image | [`reference`](Reference) |
//! | what went wrong, and what to do about it | [`error`](Error) |
//! | what happens meanwhile | [`progress`](Progress) |

mod entry;
mod error;
mod index;
mod kernel;
mod merge;
mod node;
mod pax;
mod pipeline;
mod progress;
mod reference;
mod tar_reader;
mod tree;
mod xattr;

pub use error::{Diagnosis, Error, ErrorKind};
pub use kernel::{Kernel, KernelError, KernelSource};
pub use node::{NodeOutcome, NodeSpec};
pub use pipeline::{NodeReport, Pipeline};
pub use progress::{Event, Progress, Silent, Stage};
pub use reference::{Reference, ReferenceError, ReferenceProblem, RegistryReference, Selector};
