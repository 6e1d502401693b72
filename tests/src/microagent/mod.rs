//! One run of the command line, and what it left behind.
//!
//! A [`Host`] is what a run sees of this machine: a state directory, a home, a directory for
//! temporary files and one for sockets, all fresh and all below one short path. After a run,
//! [`Host::assert_clean`] looks at all of them, and at every process and every mount.

mod host;
mod invocation;
mod left_behind;

pub use host::Host;
pub use invocation::{Finished, Invocation, Running};
