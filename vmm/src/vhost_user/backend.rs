//! From the calls of `vhost-user-backend` to those of a device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VringEpollHandler, VringMutex, VringState, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::virtio::{DeviceError, DeviceIo, VirtioDevice, interrupts};

/// `VHOST_USER_F_PROTOCOL_FEATURES`: there are protocol features to ask for.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// What the transport adds to a device's own features.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The largest ring a driver may make here, whatever the device would prefer: QEMU's virtio-mmio
/// transport offers `VIRTQUEUE_MAX_SIZE` to every driver (its `hw/virtio/virtio-mmio.c`).
const MAX_QUEUE_SIZE: usize = 1024;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringMutex<Memory>;
type EventLoop = VringEpollHandler<Arc<Backend>>;

/// A device behind vhost-user.
pub struct Backend {
    name: String,
    queues: usize,
    features: u64,
    state: Mutex<State>,
    /// The loop in which the device's own descriptor waits while it is active. Weak, for the loop
    /// owns the back end.
    event_loop: OnceLock<Weak<EventLoop>>,
    /// Written when the device has more to do in queues that nobody kicks.
    reschedule: EventFd,
}

struct State {
    device: Box<dyn VirtioDevice>,
    memory: Option<Memory>,
    phase: Phase,
    /// The queues in which the device has more to do.
    rescheduled: Vec<usize>,
    /// The guest has been warned of. Once is enough: it can go on for as long as it likes.
    warned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No ring has started.
    Idle,
    /// The device takes events.
    Active,
    /// The driver broke a rule; only a reset helps.
    Broken,
}

impl Backend {
    /// A back end for this device. `name` is for messages.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new(name: &str, device: Box<dyn VirtioDevice>) -> io::Result<Backend> {
        let sizes = device.queue_sizes();
        Ok(Backend {
            name: name.to_owned(),
            queues: sizes.len(),
            features: device.features() | RING_FEATURES | PROTOCOL_FEATURES,
            state: Mutex::new(State {
                device,
                memory: None,
                phase: Phase::Idle,
                rescheduled: Vec::new(),
                warned: false,
            }),
            event_loop: OnceLock::new(),
            reschedule: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// The loop to wait in. Once, before the connection begins.
    ///
    /// # Errors
    /// When the host does not let it wait for one more descriptor.
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

    /// The event number of the device's own descriptor; the crate keeps those up to `queues` for
    /// itself.
    fn backend_event_id(&self) -> u64 {
        self.queues as u64 + 1
    }

    /// The event number of [`reschedule`](Self::reschedule).
    fn reschedule_event_id(&self) -> u64 {
        self.queues as u64 + 2
    }

    /// Begins or ends to wait for the device's own descriptor.
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

    /// One event of the device.
    fn event(&self, state: &mut State, event: u64, io: &mut Rings<'_>) -> Result<(), DeviceError> {
        if state.phase == Phase::Idle {
            state.phase = Phase::Active;
            state.device.activate(io)?;
            self.set_backend_listener(&*state.device, true)?;
        }
        if event == self.backend_event_id() {
            state.device.backend_event(io)
        } else if event == self.reschedule_event_id() {
            // It fails only when somebody else has read it.
            let _ = self.reschedule.read();
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
    type Vring = Vring;

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
        self.state()
            .device
            .acknowledge(features & !(RING_FEATURES | PROTOCOL_FEATURES));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// Each queue was already told; see [`RING_FEATURES`].
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // The crate has bounded the size (256 bytes).
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

    /// Any ring that stops stops the device; see the module `vhost_user`.
    fn stop_vring(&self, _index: u32) -> io::Result<()> {
        let mut state = self.state();
        if state.phase != Phase::Idle {
            // It is not there when the device broke.
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
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        let mut state = self.state();
        let event = u64::from(event);
        // An event of the device's own may still be on its way when it is stopped.
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
            // It fails only when its counter is at its maximum: then it is readable.
            let _ = self.reschedule.write(1);
        }
        if let Err(error) = result {
            // vhost-user cannot say DEVICE_NEEDS_RESET: the device just stops.
            if !std::mem::replace(&mut state.warned, true) {
                tracing::warn!("{}: the guest broke the device: {error}", self.name);
            }
            let _ = self.set_backend_listener(&*state.device, false);
            state.phase = Phase::Broken;
        }
        Ok(())
    }
}

/// The rings and the guest's memory, for the length of one event.
struct Rings<'a> {
    rings: Vec<MutexGuard<'a, VringState<Memory>>>,
    memory: GuestMemoryLoadGuard<GuestMemoryMmap>,
    /// The queues in which the device has more to do.
    rescheduled: Vec<usize>,
}

impl DeviceIo for Rings<'_> {
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)> {
        let ring = self.rings.get_mut(index).filter(|ring| ring.is_enabled())?;
        let queue = ring.get_queue_mut();
        // Also says no to a ring that is not ready; asked first, for the other way is logged.
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

    /// No device that is served here changes its configuration while it is driven.
    fn config_changed(&mut self) {}
}
