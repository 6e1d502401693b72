//! What a boot costs, and where.
//!
//! | question | module |
//! |---|---|
//! | how one run is measured from outside | [`iteration`] |
//! | which parts its time falls into | [`waterfall`] |
//! | what other monitors need for the same guest | [`monitors`] |
//! | what people and scripts see | [`report`] |

pub mod iteration;
pub mod monitors;
pub mod report;
pub mod statistics;
pub mod waterfall;
