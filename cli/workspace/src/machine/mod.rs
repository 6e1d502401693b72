//! A running VM, from the host's side.
//!
//! - [`supervisor`] is the process that runs one VM, and its control socket; [`run_dir`] the
//!   directory of its sockets.
//! - [`boot`] leads from a started supervisor to a guest that accepts commands, and to its clean
//!   end.
//! - [`files`] reads and writes trees of the guest.
//! - [`session`] is one request to the agent in the guest, [`probe`] one with a time limit.
//! - [`saving`] is what the agent is asked for around its VM being saved.
//! - [`mediation`] connects the guest to a TCP server of the host; `relay` is one connection.
//! - [`services`] are what the guest reaches on the host.
//! - [`timeline`] has the times of a boot's steps.
//! - [`reaper`] waits for processes that outlive their parents.

pub mod boot;
mod data_loss;
mod error;
pub mod files;
pub mod mediation;
pub mod places;
pub mod probe;
pub mod reaper;
pub(crate) mod relay;
pub mod run_dir;
pub mod saving;
pub mod services;
pub mod session;
pub mod supervisor;
pub mod timeline;

pub use data_loss::data_loss;
pub use error::MachineError;
