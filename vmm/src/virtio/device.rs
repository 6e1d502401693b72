//! What a virtio device is to its transport, and the transport to it.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// What a transport lends a device for the length of one event.
pub trait DeviceIo {
    /// The queue with this index, and the guest memory it lives in. `None` when the driver has
    /// not made the queue ready, or the device has no such queue.
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)>;

    /// Tells the driver that buffers of this queue were used, unless it asked not to be told
    /// (`VIRTQ_AVAIL_F_NO_INTERRUPT` or the used event; virtio 1.2 section 2.7.7).
    ///
    /// # Errors
    /// When the queue's rings cannot be read any more; the device should return it as it is.
    fn notify(&mut self, index: usize) -> Result<(), DeviceError>;

    /// Asks for another [`queue_event`](VirtioDevice::queue_event) of this queue, after others have
    /// had their turn. A device bounds what it does in one event, for a driver need never run out
    /// of requests.
    fn reschedule(&mut self, index: usize);

    /// Tells the driver that the configuration space reads differently from now on (virtio 1.2
    /// section 2.5.1).
    fn config_changed(&mut self);
}

/// Reads `data.len()` bytes at `offset` of a configuration space that holds `config`. Bytes beyond
/// its end are zero.
pub(super) fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset)
        .ok()
        .and_then(|at| config.get(at..))
        .unwrap_or(&[]);
    data.fill(0);
    for (to, from) in data.iter_mut().zip(from) {
        *to = *from;
    }
}

/// A virtio device.
///
/// One event at a time: a transport never calls two methods at once. The order is
/// [`acknowledge`](Self::acknowledge), [`activate`](Self::activate), then events, then
/// [`reset`](Self::reset), after which it may begin again. A device keeps no request from one event
/// to the next that it has taken from a queue: a driver may stop a queue, or reset it alone, at any
/// time between two events, and is not asked for what it had made available.
///
/// An error from an event method means that the driver broke the rules in a way that leaves the
/// device without a defined state. The transport then stops serving it and sets
/// `DEVICE_NEEDS_RESET` (virtio 1.2 section 2.1.2). What concerns one request only is answered in
/// that request, not returned.
pub trait VirtioDevice: Send + Debug {
    /// The device type (virtio 1.2 section 5): 1 network, 2 block, 4 entropy, 19 socket.
    fn device_type(&self) -> u32;

    /// The features the device itself offers. `VIRTIO_F_VERSION_1` and the ring features that
    /// every queue of ours supports (event index, indirect descriptors) are the transport's to add.
    fn features(&self) -> u64;

    /// The largest size of each queue; its length is the number of queues. Powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device's configuration space. Bytes beyond its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Devices without writable fields ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver chose these features; always a subset of what was offered.
    fn acknowledge(&mut self, features: u64);

    /// The driver is ready (`DRIVER_OK`): queues may be used from now on.
    ///
    /// # Errors
    /// See the trait.
    fn activate(&mut self, _io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The driver made buffers of the queue `index` available.
    ///
    /// # Errors
    /// See the trait.
    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError>;

    /// A descriptor that becomes readable when [`backend_event`](Self::backend_event) has work to
    /// do, for devices whose work also comes from elsewhere. The same one for the device's life.
    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// [`backend_fd`](Self::backend_fd) became readable. Called only between `activate` and
    /// `reset`, so the device must not lose what came before.
    ///
    /// # Errors
    /// See the trait.
    fn backend_event(&mut self, _io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Back to the state of a new device: the driver's features and all requests forgotten.
    fn reset(&mut self);
}

/// The driver broke a rule that leaves the device without a defined state.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A virtqueue's rings or a descriptor chain are not valid.
    #[error("a virtqueue is not valid")]
    Queue(#[from] virtio_queue::Error),
    /// An address of the driver's is outside guest memory.
    #[error("a guest address is outside guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// Something else that names itself.
    #[error("{0}")]
    Protocol(&'static str),
    /// The host refused something the device cannot do without.
    #[error("the host refused an operation")]
    Io(#[from] std::io::Error),
}
