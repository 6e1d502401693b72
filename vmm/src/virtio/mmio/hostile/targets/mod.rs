//! What is particular to each device: its requests, its host side, and how to see that it works.

mod block;
mod net;
mod rng;
mod vsock;

pub use block::BlockTarget;
pub use net::NetTarget;
pub use rng::RngTarget;
pub use vsock::VsockTarget;

use super::harness::Harness;
use super::script::Input;

/// A device under a hostile driver.
pub trait Target {
    /// Makes a request available that has the form of one.
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness);

    /// Does something on the host's side.
    fn host_event(&mut self, _input: &mut Input<'_>) {}

    /// Panics unless the device, just started with queues of 32 entries, serves a request, or if
    /// something has changed that must not.
    fn assert_serves(&mut self, harness: &mut Harness);
}
