//! The state of a ring that a front end controls.

use std::fs::File;
use std::io;
use std::sync::MutexGuard;

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error, QueueT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A ring that does not lose an interrupt while the front end replaces the call descriptor.
///
/// QEMU's vhost-user-blk enables a ring first and then replaces the descriptor, with which it
/// ignores interrupts, by the guest's (QEMU, `vhost_user_blk_start`). What is completed between the
/// two is signalled on the former, and the guest would wait for ever. So a new descriptor of a ring
/// in use is signalled once: a driver must expect an interrupt without a used buffer (virtio 1.2,
/// 2.7.7).
#[derive(Clone)]
pub struct Ring(VringMutex<Memory>);

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Ring {
    fn set_call(&self, file: Option<File>) {
        self.0.set_call(file);
        let ring = self.0.get_ref();
        if ring.is_enabled() && ring.get_queue().ready() {
            // Fails only if the counter is at its maximum, and then it is readable already.
            let _ = ring.signal_used_queue();
        }
    }

    fn new(memory: Memory, max_queue_size: u16) -> Result<Ring, Error> {
        Ok(Ring(VringMutex::new(memory, max_queue_size)?))
    }

    fn get_ref(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.0.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, VringState<Memory>> {
        self.0.get_mut()
    }

    fn add_used(&self, head: u16, length: u32) -> Result<(), Error> {
        self.0.add_used(head, length)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.0.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(&self, descriptors: u64, available: u64, used: u64) -> Result<(), Error> {
        self.0.set_queue_info(descriptors, available, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.0.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.0.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.0.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.0.read_kick()
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::event::{EventfdFlags, eventfd};
    use vm_memory::GuestAddress;

    use super::*;

    /// An event counter, as a front end makes it for a call descriptor.
    struct Counter(File);

    impl Counter {
        fn new() -> Counter {
            Counter(eventfd(0, EventfdFlags::NONBLOCK).unwrap().into())
        }

        fn descriptor(&self) -> Option<File> {
            Some(self.0.try_clone().unwrap())
        }

        /// The number of signals since the last call.
        fn signals(&self) -> u64 {
            let mut bytes = [0; 8];
            match (&self.0).read_exact(&mut bytes) {
                Ok(()) => u64::from_ne_bytes(bytes),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    0
                }
            }
        }
    }

    #[test]
    fn an_interrupt_between_two_call_descriptors_is_not_lost() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let ring = Ring::new(GuestMemoryAtomic::new(memory), 16).unwrap();
        let [masked, real, other] = [(); 3].map(|()| Counter::new());
        // Before the ring is in use, nothing can have been completed.
        ring.set_call(masked.descriptor());
        assert_eq!(masked.signals(), 0);
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        ring.signal_used_queue().unwrap();
        assert_eq!(masked.signals(), 1);
        ring.set_call(real.descriptor());
        assert_eq!((masked.signals(), real.signals()), (0, 1));
        // Nor in a ring that is not in use any more.
        ring.set_enabled(false);
        ring.set_call(other.descriptor());
        assert_eq!(other.signals(), 0);
    }
}
