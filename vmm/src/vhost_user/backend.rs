//! Maps the callbacks of `vhost-user-backend` to a device.

mod diagnosis;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringEpollHandler, VringState, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ring::Ring;
use crate::virtio::{DeviceError, DeviceIo, VirtioDevice, interrupts};

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the back end supports protocol features.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The features that the transport adds to those of the device.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The maximum queue size, for any device: QEMU's virtio-mmio transport offers `VIRTQUEUE_MAX_SIZE`
/// to every driver (QEMU, `hw/virtio/virtio-mmio.c`).
const MAX_QUEUE_SIZE: usize = 1024;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type EventLoop = VringEpollHandler<Arc<Backend>>;

/// A device that is served over vhost-user.
pub struct Backend {
    name: String,
    queues: usize,
    features: u64,
    state: Mutex<State>,
    /// The rings, once one of them was notified; for [`describe`](Self::describe).
    rings: OnceLock<Vec<Ring>>,
    /// The event loop, which polls the device's `backend_fd` while the device is active. Weak,
    /// because the loop owns the back end.
    event_loop: OnceLock<Weak<EventLoop>>,
    /// Written when the device has rescheduled queues.
    reschedule: EventFd,
}

struct State {
    device: Box<dyn VirtioDevice>,
    memory: Option<Memory>,
    /// The features that the front end acknowledged.
    acknowledged: Option<u64>,
    phase: Phase,
    /// The queues that the device has rescheduled.
    rescheduled: Vec<usize>,
    /// A warning was already logged; a guest must not flood the log.
    warned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No ring has had an event yet.
    Idle,
    /// The device receives events.
    Active,
    /// The device returned an error and needs a reset.
    Broken,
}

impl Backend {
    /// A back end for this device. `name` is for messages.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(name: &str, device: Box<dyn VirtioDevice>) -> io::Result<Backend> {
        let sizes = device.queue_sizes();
        Ok(Backend {
            name: name.to_owned(),
            queues: sizes.len(),
            features: device.features() | RING_FEATURES | PROTOCOL_FEATURES,
            state: Mutex::new(State {
                device,
                memory: None,
                acknowledged: None,
                phase: Phase::Idle,
                rescheduled: Vec::new(),
                warned: false,
            }),
            rings: OnceLock::new(),
            event_loop: OnceLock::new(),
            reschedule: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Sets the event loop. Must be called once, before the connection is served.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn set_event_loop(&self, events: &Arc<EventLoop>) -> io::Result<()> {
        let _ = self.event_loop.set(Arc::downgrade(events));
        events.register_listener(
            self.reschedule.as_raw_fd(),
            EventSet::IN,
            self.reschedule_event_id(),
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event number of the device's `backend_fd`. `vhost-user-backend` uses those up to
    /// `queues`.
    fn backend_event_id(&self) -> u64 {
        self.queues as u64 + 1
    }

    /// The event number of [`reschedule`](Self::reschedule).
    fn reschedule_event_id(&self) -> u64 {
        self.queues as u64 + 2
    }

    /// Starts or stops polling the device's `backend_fd`.
    fn set_backend_listener(&self, device: &dyn VirtioDevice, on: bool) -> io::Result<()> {
        let Some((fd, events)) = device
            .backend_fd()
            .zip(self.event_loop.get().and_then(Weak::upgrade))
        else {
            return Ok(());
        };
        let fd = fd.as_raw_fd();
        if on {
            events.register_listener(fd, EventSet::IN, self.backend_event_id())
        } else {
            events.unregister_listener(fd, EventSet::IN, self.backend_event_id())
        }
    }

    /// Passes one event to the device, and activates it first if necessary.
    fn event(&self, state: &mut State, event: u64, io: &mut Rings<'_>) -> Result<(), DeviceError> {
        if state.phase == Phase::Idle {
            state.phase = Phase::Active;
            state.device.activate(io)?;
            self.set_backend_listener(&*state.device, true)?;
        }
        if event == self.backend_event_id() {
            state.device.backend_event(io)
        } else if event == self.reschedule_event_id() {
            let queues = std::mem::take(&mut state.rescheduled);
            let mut queues = queues.into_iter();
            queues.try_for_each(|index| state.device.queue_event(index, io))
        } else {
            state.device.queue_event(event as usize, io)
        }
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn acked_features(&self, features: u64) {
        let mut state = self.state();
        state.acknowledged = Some(features);
        state
            .device
            .acknowledge(features & !(RING_FEATURES | PROTOCOL_FEATURES));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// The crate has already set it for each queue.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // The crate limits the size to 256 bytes.
        let mut data = vec![0; size as usize];
        self.state()
            .device
            .read_config(u64::from(offset), &mut data);
        data
    }

    fn set_config(&self, offset: u32, data: &[u8]) -> io::Result<()> {
        self.state().device.write_config(u64::from(offset), data);
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.state().memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    /// Stopping any ring resets the device; see the module `vhost_user`.
    fn stop_vring(&self, _index: u32) -> io::Result<()> {
        let mut state = self.state();
        if state.phase != Phase::Idle {
            // Fails if the device is broken, because the listener is then already removed.
            let _ = self.set_backend_listener(&*state.device, false);
            state.device.reset();
            state.phase = Phase::Idle;
            state.rescheduled.clear();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Ring],
        _thread: usize,
    ) -> io::Result<()> {
        self.rings.get_or_init(|| vrings.to_vec());
        let mut state = self.state();
        let event = u64::from(event);
        if event == self.reschedule_event_id() {
            // In every state: the event loop would call again and again. Fails only if it is not
            // readable.
            let _ = self.reschedule.read();
        }
        // An event other than a kick may still arrive after the device was stopped.
        let late = state.phase == Phase::Idle && event >= self.backend_event_id();
        let Some(memory) = state.memory.as_ref().map(GuestAddressSpace::memory) else {
            return Ok(());
        };
        if late || state.phase == Phase::Broken {
            return Ok(());
        }
        let mut rings = Rings {
            rings: vrings.iter().map(VringT::get_mut).collect(),
            memory,
            rescheduled: Vec::new(),
        };
        let result = self.event(&mut state, event, &mut rings);
        if !rings.rescheduled.is_empty() {
            state.rescheduled.append(&mut rings.rescheduled);
            // Fails only if the counter is at its maximum, and then it is readable already.
            let _ = self.reschedule.write(1);
        }
        if let Err(error) = result {
            // vhost-user has no message for DEVICE_NEEDS_RESET: the device only stops.
            if !std::mem::replace(&mut state.warned, true) {
                tracing::warn!(
                    "{}: driver error; the device needs a reset: {error}",
                    self.name
                );
            }
            let _ = self.set_backend_listener(&*state.device, false);
            state.phase = Phase::Broken;
        }
        Ok(())
    }
}

/// The rings and the guest's memory during one event.
struct Rings<'a> {
    rings: Vec<MutexGuard<'a, VringState<Memory>>>,
    memory: GuestMemoryLoadGuard<GuestMemoryMmap>,
    /// The queues that the device has rescheduled.
    rescheduled: Vec<usize>,
}

impl DeviceIo for Rings<'_> {
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)> {
        let ring = self.rings.get_mut(index).filter(|ring| ring.is_enabled())?;
        let queue = ring.get_queue_mut();
        // `is_valid` also checks that the ring is ready, but logs an error if it is not.
        (queue.ready() && queue.is_valid(&*self.memory)).then_some((queue, &*self.memory))
    }

    fn notify(&mut self, index: usize) -> Result<(), DeviceError> {
        let Some(ring) = self.rings.get_mut(index) else {
            return Ok(());
        };
        let wanted = interrupts::wanted(ring.get_queue_mut(), &self.memory)?;
        if wanted {
            ring.signal_used_queue()?;
        }
        Ok(())
    }

    fn reschedule(&mut self, index: usize) {
        self.rescheduled.push(index);
    }

    /// Ignored: the messages of a back end to its front end are not implemented.
    fn config_changed(&mut self) {}
}
