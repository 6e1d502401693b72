//! The devices under test: their requests, their host side, and a check that they work.

mod block;
mod net;
mod rng;
mod vsock;

pub use block::BlockTarget;
pub use net::NetTarget;
pub use rng::RngTarget;
pub use vsock::VsockTarget;

use super::harness::Harness;
use super::input::Input;

/// A device under a hostile driver.
pub trait Target {
    /// Makes a request available that is mostly well-formed.
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness);

    /// Changes something on the host side.
    fn host_event(&mut self, _input: &mut Input<'_>) {}

    /// Panics unless the device, which was just started with queues of 32 entries, serves a request
    /// and its read-only files are unchanged.
    fn assert_serves(&mut self, harness: &mut Harness);
}
