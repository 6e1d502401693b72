//! Runs the command line and checks what it left behind.
//!
//! A [`Host`] is an isolated environment: empty directories for state, home, temporary files and
//! sockets below one short path. After a run, [`Host::assert_clean`] checks all of them, and every
//! process and mount.

mod host;
mod invocation;
mod left_behind;

pub use host::Host;
pub(crate) use host::template;
pub use invocation::{Finished, Invocation, Running};
pub(crate) use left_behind::wait_for_process;
