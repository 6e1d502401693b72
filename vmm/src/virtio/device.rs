//! The interface between virtio devices and their transports.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

/// What a transport lends a device while the device handles one event.
pub trait DeviceIo {
    /// The queue with this index, and the guest memory it is in. `None` if the driver has not made
    /// the queue ready or the device has no such queue.
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)>;

    /// Sends a used buffer notification for this queue, unless the driver suppresses it
    /// (`VIRTQ_AVAIL_F_NO_INTERRUPT` or `used_event`; virtio 1.2 section 2.7.7).
    ///
    /// # Errors
    /// When the rings cannot be read; the device should pass the error on.
    fn notify(&mut self, index: usize) -> Result<(), DeviceError>;

    /// Requests another [`queue_event`](VirtioDevice::queue_event) for this queue, after events
    /// that are already pending. A device limits its work in one event, since a driver may add
    /// requests without end.
    fn reschedule(&mut self, index: usize);

    /// Sends a configuration change notification (virtio 1.2 section 2.3), after the configuration
    /// space has changed.
    fn config_changed(&mut self);
}

/// Reads `data.len()` bytes at `offset` of the configuration space `config`. Bytes beyond its end
/// read as zero.
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
/// A transport calls one method at a time. The order is [`acknowledge`](Self::acknowledge),
/// [`activate`](Self::activate), any number of events, [`reset`](Self::reset), and then the same
/// again. A device must complete every chain that it takes from a queue before the event method
/// returns: between two events, the driver may stop the queue or reset it.
///
/// An error from an event method means that the driver violated the specification such that the
/// state of the device is undefined. The transport then stops the device and sets
/// `DEVICE_NEEDS_RESET` (virtio 1.2 section 2.1.2). An error that affects one request only is
/// reported in the status of that request.
pub trait VirtioDevice: Send + Debug {
    /// The device type (virtio 1.2 section 5): 1 network, 2 block, 4 entropy, 19 socket.
    fn device_type(&self) -> u32;

    /// The features of the device itself. The transport adds `VIRTIO_F_VERSION_1` and the ring
    /// features that all queues support (event index, indirect descriptors).
    fn features(&self) -> u64;

    /// The maximum size of each queue, a power of two; the length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device's configuration space. Bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Devices without writable fields ignore it.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver has accepted these features, a subset of [`features`](Self::features).
    fn acknowledge(&mut self, features: u64);

    /// The driver has set `DRIVER_OK`: the queues may be used from now on.
    ///
    /// # Errors
    /// See the trait.
    fn activate(&mut self, _io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The driver has sent an available buffer notification for queue `index`.
    ///
    /// # Errors
    /// See the trait.
    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError>;

    /// A file descriptor that is readable while [`backend_event`](Self::backend_event) has work to
    /// do, for devices that also handle events of the host. It never changes.
    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// [`backend_fd`](Self::backend_fd) is readable. Called only between `activate` and `reset`;
    /// the device must not lose events that occur at other times.
    ///
    /// # Errors
    /// See the trait.
    fn backend_event(&mut self, _io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Makes durable what the host side of the device has taken from the driver, before the VM is saved: the
    /// saved guest counts on it, and need not have flushed it.
    ///
    /// # Errors
    /// Those of the host.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns the device to its initial state, without features and requests.
    fn reset(&mut self);
}

/// Why a device cannot continue until its driver resets it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A virtqueue's rings or a descriptor index are invalid.
    #[error("invalid virtqueue")]
    Queue(#[from] virtio_queue::Error),
    /// A ring is outside guest memory.
    #[error("address outside guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// Another violation of the specification, described by the text.
    #[error("{0}")]
    Protocol(&'static str),
    /// A host operation failed that the device needs.
    #[error("host operation failed")]
    Io(#[from] std::io::Error),
}
