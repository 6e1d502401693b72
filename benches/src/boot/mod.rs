//! Boot benchmarks.
//!
//! `microagent perf boot` measures; this runs it where results are reproducible: in the lab with
//! the deterministic clock, where a millisecond is a million instructions of the whole machine
//! (monitor, host kernel and guest).
//!
//! | module | purpose |
//! |---|---|
//! | [`perf`] | the output of `perf boot --json` |
//! | [`lab`] | runs it in a lab, with the monitors to compare |
//! | [`baseline`] | stored results, to detect regressions |
//! | [`report`], [`chart`] | output |

pub mod baseline;
pub mod chart;
pub mod lab;
pub mod perf;
pub mod report;
