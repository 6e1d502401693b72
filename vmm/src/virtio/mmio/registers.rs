//! The device's registers, and its state from reset to `DRIVER_OK` (virtio 1.2 sections 2.1, 3.1
//! and 4.2.2).

mod diagnosis;
mod serving;
mod state;

use std::io;

use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;

use super::super::VirtioDevice;
use super::queue::{QueueRegisters, Ring};
pub(super) use serving::{Event, EventContext};
pub(super) use state::RegisterState;

// Register offsets, virtio 1.2 table 4.1.
const MAGIC: u64 = 0x00;
const VERSION: u64 = 0x04;
const DEVICE_ID: u64 = 0x08;
const VENDOR_ID: u64 = 0x0c;
const DEVICE_FEATURES: u64 = 0x10;
const DEVICE_FEATURES_SELECT: u64 = 0x14;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_SIZE_MAX: u64 = 0x34;
const QUEUE_SIZE: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
pub(super) const QUEUE_NOTIFY: u64 = 0x50;
pub(super) const INTERRUPT_STATUS: u64 = 0x60;
pub(super) const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const QUEUE_DESCRIPTORS_LOW: u64 = 0x80;
const QUEUE_DESCRIPTORS_HIGH: u64 = 0x84;
const QUEUE_AVAILABLE_LOW: u64 = 0x90;
const QUEUE_AVAILABLE_HIGH: u64 = 0x94;
const QUEUE_USED_LOW: u64 = 0xa0;
const QUEUE_USED_HIGH: u64 = 0xa4;
const QUEUE_RESET: u64 = 0xc0;
const SHARED_MEMORY_LENGTH_LOW: u64 = 0xb0;
const SHARED_MEMORY_BASE_HIGH: u64 = 0xbc;
const CONFIG_GENERATION: u64 = 0xfc;
const CONFIG: u64 = 0x100;

const MAGIC_VALUE: u32 = 0x7472_6976;
const VERSION_VALUE: u32 = 2;
const VENDOR_VALUE: u32 = u32::from_le_bytes(*b"MAGT");

// Device status bits, virtio 1.2 section 2.1.
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;
const DRIVER_BITS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// The features that the transport adds to those of the device.
const TRANSPORT_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// The effect of a register write on the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// No effect.
    None,
    /// The device must be activated, or must not be served any more.
    Phase,
    /// The device was reset.
    Reset,
}

/// The state of the device for the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not served: `DRIVER_OK` is not set, or the device needs a reset.
    Inactive,
    /// `DRIVER_OK` is set; [`VirtioDevice::activate`] has not been called yet.
    Activating,
    /// The device receives events.
    Active,
    /// The transport is being dropped.
    Stopped,
}

/// A device, its queues and its registers.
#[derive(Debug)]
pub(super) struct Core {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemoryMmap,
    queues: Vec<QueueRegisters>,
    phase: Phase,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: usize,
    /// Changes whenever the configuration space does (virtio 1.2 section 2.5.1).
    config_generation: u32,
    /// A warning was already logged; a guest must not flood the log.
    warned: bool,
    /// No event is handled.
    paused: bool,
    /// Events were missed while it was paused.
    resumed: bool,
}

impl Core {
    pub(super) fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> io::Result<Core> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|&size| QueueRegisters::new(size))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Core {
            device,
            memory,
            queues,
            phase: Phase::Inactive,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            config_generation: 0,
            warned: false,
            paused: false,
            resumed: false,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether its events are to be waited for.
    pub(super) fn is_served(&self) -> bool {
        self.phase == Phase::Active && !self.paused
    }

    pub(super) fn stop(&mut self) {
        self.phase = Phase::Stopped;
    }

    pub(super) fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    fn features(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG {
            data.fill(0);
            return self.device.read_config(offset - CONFIG, data);
        }
        // Registers are four bytes wide, and other widths are not allowed (section 4.2.2.2).
        let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data) else {
            return data.fill(0);
        };
        *data = self.read_register(offset).to_le_bytes();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_select);
        match offset {
            MAGIC => MAGIC_VALUE,
            VERSION => VERSION_VALUE,
            DEVICE_ID => self.device.device_type(),
            VENDOR_ID => VENDOR_VALUE,
            DEVICE_FEATURES => half(self.features(), self.device_features_select),
            QUEUE_SIZE_MAX => queue.map_or(0, |queue| queue.max_size().into()),
            QUEUE_READY => queue.is_some_and(QueueRegisters::ready).into(),
            STATUS => self.status,
            // There are no shared memory regions: lengths and bases read as all ones (4.2.2).
            SHARED_MEMORY_LENGTH_LOW..=SHARED_MEMORY_BASE_HIGH => u32::MAX,
            // The reset is complete when the write returns (2.6.1).
            QUEUE_RESET => 0,
            CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG)
            && self.status & DRIVER != 0
        {
            self.device.write_config(offset, data);
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) -> Change {
        match offset {
            CONFIG.. => self.write_config(offset, &value.to_le_bytes()),
            DEVICE_FEATURES_SELECT => self.device_features_select = value,
            DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            DRIVER_FEATURES => self.write_driver_features(value),
            QUEUE_SELECT => self.queue_select = value as usize,
            STATUS => return self.write_status(value),
            _ => self.write_queue(offset, value),
        }
        Change::None
    }

    /// Features are negotiated between `DRIVER` and `FEATURES_OK` (section 3.1.1).
    fn write_driver_features(&mut self, value: u32) {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        let (mask, value) = match self.driver_features_select {
            0 => (u64::from(u32::MAX), u64::from(value)),
            1 => (u64::from(u32::MAX) << 32, u64::from(value) << 32),
            _ => return,
        };
        self.driver_features = self.driver_features & !mask | value;
    }

    /// Queues are set up between `FEATURES_OK` and `DRIVER_OK`, and later only if the driver has
    /// accepted `VIRTIO_F_RING_RESET` (section 2.6.1). They can be stopped at any time.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let resets = self.accepted(VIRTIO_F_RING_RESET);
        let may_set_up = self.status & FEATURES_OK != 0 && (self.status & DRIVER_OK == 0 || resets);
        let event_idx = self.accepted(VIRTIO_RING_F_EVENT_IDX);
        let Some(queue) = self.queues.get_mut(self.queue_select) else {
            return;
        };
        match (offset, value) {
            (QUEUE_READY, 0) => return queue.stop(),
            (QUEUE_RESET, 1) if resets => return queue.reset(),
            _ if !may_set_up => return,
            _ => {}
        }
        match offset {
            QUEUE_READY if value == 1 => {
                if let Err(reason) = queue.enable(&self.memory, event_idx)
                    && !std::mem::replace(&mut self.warned, true)
                {
                    tracing::warn!(
                        device = self.device.device_type(),
                        queue = self.queue_select,
                        "the driver enabled an invalid queue: {reason}"
                    );
                }
            }
            QUEUE_SIZE => queue.set_size(value),
            QUEUE_DESCRIPTORS_LOW => queue.set_address(Ring::Descriptors, false, value),
            QUEUE_DESCRIPTORS_HIGH => queue.set_address(Ring::Descriptors, true, value),
            QUEUE_AVAILABLE_LOW => queue.set_address(Ring::Available, false, value),
            QUEUE_AVAILABLE_HIGH => queue.set_address(Ring::Available, true, value),
            QUEUE_USED_LOW => queue.set_address(Ring::Used, false, value),
            QUEUE_USED_HIGH => queue.set_address(Ring::Used, true, value),
            _ => {}
        }
    }

    /// Whether this feature was negotiated.
    fn accepted(&self, feature: u32) -> bool {
        self.status & FEATURES_OK != 0 && self.driver_features >> feature & 1 == 1
    }

    fn write_status(&mut self, value: u32) -> Change {
        if value == 0 {
            self.reset();
            return Change::Reset;
        }
        // A driver clears bits only by a reset (section 2.1.1).
        let added = value & DRIVER_BITS & !self.status;
        self.status |= added & (ACKNOWLEDGE | DRIVER | FAILED);
        if added & FEATURES_OK != 0 && self.status & DRIVER != 0 {
            let acceptable = self.driver_features & !self.features() == 0
                && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
            if acceptable {
                self.status |= FEATURES_OK;
                self.device
                    .acknowledge(self.driver_features & self.device.features());
            }
        }
        if added & FAILED != 0 && self.phase != Phase::Stopped {
            self.phase = Phase::Inactive;
            return Change::Phase;
        }
        // If either side has given up the device, it needs a reset (sections 2.1.1, 2.1.2).
        let given_up = self.status & (FAILED | NEEDS_RESET) != 0;
        if added & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 && !given_up {
            self.status |= DRIVER_OK;
            if self.phase != Phase::Stopped {
                self.phase = Phase::Activating;
            }
            return Change::Phase;
        }
        Change::None
    }

    fn reset(&mut self) {
        if self.phase != Phase::Stopped {
            self.phase = Phase::Inactive;
        }
        self.status = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(QueueRegisters::reset);
        self.device.reset();
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}
