//! The entropy device.

use super::super::harness::{BUFFERS, Harness};
use super::super::input::Input;
use super::Target;
use crate::virtio::testing::registers::{QUEUE_NOTIFY, Registers};
use crate::virtio::testing::writable;

#[derive(Debug)]
pub struct RngTarget;

impl Target for RngTarget {
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness) {
        let at = BUFFERS + 64 * u64::from(input.byte());
        let head = input.byte().into();
        harness.offer(0, head, &[writable(at, input.short().into())]);
    }

    fn assert_serves(&mut self, harness: &mut Harness) {
        harness.put(BUFFERS, &[0; 64]);
        harness.offer(0, 0, &[writable(BUFFERS, 64)]);
        harness.write_register(QUEUE_NOTIFY, 0);
        harness.run_worker();
        assert_eq!(harness.ring(0).used_index(), 1);
        assert_ne!(harness.get(BUFFERS), [0; 64]);
    }
}
