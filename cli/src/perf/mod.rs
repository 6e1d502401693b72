//! Boot time measurement.
//!
//! | topic | module |
//! |---|---|
//! | how one run is measured | [`iteration`] |
//! | phases of a boot | [`waterfall`] |
//! | comparison with other monitors | [`monitors`] |
//! | the printed result | [`report`] |

pub mod iteration;
pub mod monitors;
pub mod report;
pub mod statistics;
pub mod waterfall;
