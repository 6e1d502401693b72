//! One `run`, from a validated request to an exit code.
//!
//! ```text
//!  engine ─ supervisor spawned ─ resolve ─ rootfs ─┬─ boot ─ configure ─ setup… ─ exec ─ teardown
//!                                kernel ─ initramfs┘
//! ```
//!
//! The supervisor is spawned first and waits for its configuration, so that its startup overlaps
//! with the other steps. A kernel that must be downloaded is downloaded in parallel with the image.
//!
//! However a run ends, it leaves nothing behind: no run directory, no disk delta (an unlinked
//! file), no supervisor. With `--keep` the workspace is kept once the command has started. Writes
//! to a `--disk` remain in that disk.

pub mod artifacts;
pub mod deadline;
pub mod disks;
pub mod document;
pub mod kept;
pub mod network;
pub mod outputs;
pub mod passed;
pub mod phases;
pub mod sink;
pub mod variables;
pub mod vm;
pub mod warnings;
