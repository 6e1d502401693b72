//! What a build costs, and what a boot costs ([`boot`]).
//!
//! Two kinds of measurement, and neither is a test of anything:
//! - `cargo bench -p microagent-benches`: the parts, through the public interfaces of the store
//!   and the pipeline (`benches/benches/`);
//! - `build-bench`: the whole, as a person starts it, beside the programs that people chain
//!   together for the same result. This library is what it is made of.
//!
//! | module | what it is |
//! |---|---|
//! | [`measured`] | one process: time, processor time, peak memory |
//! | [`ours`], [`peers`] | the builds that are compared |
//! | [`subject`] | the image, in a registry |
//! | [`comparison`] | the rounds |
//! | [`large`] | peak memory for images of extreme size |
//! | [`layout`], [`content`] | synthetic images |
//! | [`disk`] | reading and writing a VM's disk, beside QEMU's (`disk-bench`) |
//! | [`statistics`], [`targets`], [`phases`] | what the numbers come to |
//! | [`machine`], [`report`], [`markdown`], [`chart`] | how they are shown |

pub mod boot;
pub mod chart;
pub mod comparison;
pub mod content;
pub mod disk;
mod error;
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

pub use error::Error;
