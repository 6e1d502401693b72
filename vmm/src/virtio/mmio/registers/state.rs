//! The registers and queues as plain values, for a snapshot.

use super::super::queue::Saved;
use super::{
    ACKNOWLEDGE, Core, DRIVER, DRIVER_BITS, DRIVER_OK, FEATURES_OK, NEEDS_RESET, Phase,
    VIRTIO_RING_F_EVENT_IDX,
};
use crate::snapshot::{Kind, StateError, StateFile, Writer};

/// The values of the registers, in this order.
const TYPE: usize = 0;
const STATUS: usize = 1;
const DRIVER_FEATURES: usize = 2;
const DEVICE_SELECT: usize = 3;
const DRIVER_SELECT: usize = 4;
const QUEUE_SELECT: usize = 5;
const GENERATION: usize = 6;
const INTERRUPT: usize = 7;

/// More queues than any device has.
const MAX_QUEUES: usize = 64;

/// The registers and queues of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct RegisterState {
    registers: [u64; 8],
    queues: Vec<Saved>,
}

impl RegisterState {
    /// The interrupt status register.
    pub fn interrupt_status(&self) -> u32 {
        self.registers[INTERRUPT] as u32
    }

    pub fn write(&self, index: u32, to: &mut Writer) {
        to.value(Kind::Transport, index, &self.registers);
        to.value(Kind::Queues, index, &self.queues[..]);
    }

    pub fn read(index: u32, from: &mut StateFile<'_>) -> Result<RegisterState, StateError> {
        Ok(RegisterState {
            registers: from.value(Kind::Transport, index)?,
            queues: from.values(Kind::Queues, index, MAX_QUEUES)?,
        })
    }
}

impl Core {
    pub fn pause(&mut self) {
        self.paused = true;
    }

    pub fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.resumed = true;
        }
    }

    /// Whether a driver uses the device.
    pub fn is_driven(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// See [`VirtioDevice::sync`](crate::virtio::VirtioDevice::sync).
    ///
    /// # Errors
    /// As there.
    pub fn sync(&mut self) -> std::io::Result<()> {
        self.device.sync()
    }

    /// The state; `interrupt_status` is the register that this does not have.
    pub fn state(&self, interrupt_status: u32) -> RegisterState {
        let mut registers = [0; 8];
        registers[TYPE] = self.device.device_type().into();
        registers[STATUS] = self.status.into();
        registers[DRIVER_FEATURES] = self.driver_features;
        registers[DEVICE_SELECT] = self.device_features_select.into();
        registers[DRIVER_SELECT] = self.driver_features_select.into();
        registers[QUEUE_SELECT] = self.queue_select as u64;
        registers[GENERATION] = self.config_generation.into();
        registers[INTERRUPT] = interrupt_status.into();
        RegisterState {
            registers,
            queues: self.queues.iter().map(|queue| queue.save()).collect(),
        }
    }

    /// Gives a new device this state. It is activated when its worker is woken.
    ///
    /// # Errors
    /// Why this device cannot have the state.
    pub fn restore(&mut self, state: &RegisterState) -> Result<(), &'static str> {
        let registers = &state.registers;
        if registers[TYPE] != u64::from(self.device.device_type()) {
            return Err("it is another device");
        }
        if state.queues.len() != self.queues.len() {
            return Err("it has more or fewer queues");
        }
        let small = |register: usize| {
            u32::try_from(registers[register]).map_err(|_| "a register has more than 32 bits")
        };
        let status = small(STATUS)?;
        if status & !(DRIVER_BITS | NEEDS_RESET) != 0
            || status & FEATURES_OK != 0 && status & DRIVER == 0
            || status & DRIVER_OK != 0 && status & FEATURES_OK == 0
            || status & DRIVER != 0 && status & ACKNOWLEDGE == 0
        {
            return Err("its status cannot be");
        }
        self.status = status;
        self.driver_features = registers[DRIVER_FEATURES];
        self.device_features_select = small(DEVICE_SELECT)?;
        self.driver_features_select = small(DRIVER_SELECT)?;
        self.queue_select = small(QUEUE_SELECT)? as usize;
        // The device is another one, with a configuration of its own.
        self.config_generation = small(GENERATION)?.wrapping_add(1);
        small(INTERRUPT)?;
        if status & FEATURES_OK != 0 {
            if self.driver_features & !self.features() != 0 {
                return Err("its driver uses features that the device does not have");
            }
            (self.device).acknowledge(self.driver_features & self.device.features());
        }
        let event_idx = self.accepted(VIRTIO_RING_F_EVENT_IDX);
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            queue
                .restore(saved, &self.memory, event_idx)
                .map_err(|_| "a queue is invalid")?;
        }
        if status & DRIVER_OK != 0 && status & (super::FAILED | NEEDS_RESET) == 0 {
            self.phase = Phase::Activating;
        }
        Ok(())
    }
}
