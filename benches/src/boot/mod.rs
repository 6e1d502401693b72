//! What a boot costs.
//!
//! `microagent perf boot` measures; this runs it where its figures can be compared: in the lab,
//! under the deterministic clock, where a millisecond is a million instructions of the whole
//! machine (monitor, host kernel and guest), and the same on every run.
//!
//! | module | what it is |
//! |---|---|
//! | [`perf`] | what `perf boot --json` says |
//! | [`lab`] | a lab with all that is compared |
//! | [`baseline`] | what a boot cost when it was last looked at |
//! | [`report`], [`chart`] | how it is shown |

pub mod baseline;
pub mod chart;
pub mod lab;
pub mod perf;
pub mod report;
