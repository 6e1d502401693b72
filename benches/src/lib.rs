//! Benchmarks of builds, boots ([`boot`]), disks ([`disk`]) and workspaces ([`workspace`]).
//!
//! - `cargo bench -p microagent-benches`: single steps, through the public interfaces of the store
//!   and the pipeline (`benches/benches/`);
//! - `build-bench`: whole builds, compared with the tools commonly combined for the same result;
//! - `boot-bench`, `disk-bench`: VMs, compared with other monitors;
//! - `workspace-bench`: the commands and the memory of workspaces.
//!
//! This library implements the programs.
//!
//! | module | purpose |
//! |---|---|
//! | [`measured`] | one process: wall time, CPU time, peak memory |
//! | [`ours`], [`peers`] | the builds to compare |
//! | [`subject`] | the image, in a registry |
//! | [`comparison`] | the measurement rounds |
//! | [`large`] | peak memory for very large images |
//! | [`layout`], [`content`] | synthetic images |
//! | [`disk`] | throughput of a VM's disk, compared with QEMU (`disk-bench`) |
//! | [`workspace`] | time and memory of workspaces (`workspace-bench`) |
//! | [`statistics`], [`targets`], [`phases`] | evaluation |
//! | [`machine`], [`report`], [`markdown`], [`chart`] | output |

pub mod boot;
pub mod chart;
pub mod comparison;
pub mod content;
pub mod disk;
mod error;
mod lab_output;
pub mod large;
pub mod layout;
pub mod machine;
pub mod markdown;
pub mod measured;
pub mod ours;
pub mod peers;
pub mod phases;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod targets;
pub mod workspace;

pub use error::Error;
