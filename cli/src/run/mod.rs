//! One `run`, from a checked request to an exit code.
//!
//! ```text
//!  engine ─ supervisor spawned ─ resolve ─ rootfs ─┬─ boot ─ configure ─ setup… ─ exec ─ teardown
//!                                kernel ─ initramfs┘
//! ```
//!
//! The supervisor is started first and waits for its task, so that its start costs nothing. A
//! kernel that has to be downloaded is downloaded beside the image.
//!
//! Nothing of a run outlives it, however it ends: the run directory, the disk's delta (which has
//! no name), the supervisor. With `--keep` the workspace stays once the command has been started. What
//! is written to a `--disk` stays in that disk.

pub mod artifacts;
pub mod deadline;
pub mod disks;
pub mod document;
pub mod phases;
pub mod sink;
pub mod vm;
pub mod workspace;
