//! Benchmarks of builds, boots ([`boot`]), disks ([`disk`]), networks ([`net`]) and workspaces ([`workspace`]).
//!
//! - `cargo bench -p microagent-benches`: single steps, through the public interfaces of the store
//!   and the pipeline (`benches/benches/`);
//! - `build-bench`: whole builds, compared with the tools commonly combined for the same result;
//! - `boot-bench`, `disk-bench`, `net-bench`: VMs, compared with other monitors;
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
//! | [`guest`] | a VM without an image |
//! | [`disk`] | throughput of a VM's disk, compared with QEMU (`disk-bench`) |
//! | [`net`] | network of a VM, compared with QEMU (`net-bench`) |
//! | [`workspace`] | time and memory of workspaces (`workspace-bench`) |
//! | [`places`] | the lab, this host, or both |
//! | [`statistics`], [`targets`], [`phases`] | evaluation |
//! | [`machine`], [`report`], [`markdown`], [`chart`] | output |

pub mod boot;
pub mod chart;
pub mod comparison;
pub mod content;
pub mod disk;
mod error;
pub mod guest;
mod lab_output;
pub mod large;
pub mod layout;
pub mod machine;
pub mod markdown;
pub mod measured;
pub mod net;
pub mod ours;
pub mod peers;
pub mod phases;
pub mod places;
pub mod report;
pub mod statistics;
pub mod subject;
pub mod targets;
pub mod workspace;

pub use error::Error;
