//! The device at work: its worker's events, and what it is lent for each of them.

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::super::super::{DeviceError, DeviceIo, VirtioDevice, interrupts};
use super::super::queue::QueueRegisters;
use super::super::{INTERRUPT_CONFIG, INTERRUPT_USED, Interrupt};
use super::{Core, Life, NEEDS_RESET};

/// What a worker has been woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Event {
    /// The device's state may have changed.
    State,
    /// The device's own descriptor is readable.
    Backend,
    /// The driver has kicked this queue, or the device has more to do in it.
    Queue(usize),
}

/// What the device's life happens in.
#[derive(Clone, Copy)]
pub(in super::super) struct Around<'a> {
    pub interrupt: &'a Interrupt,
    /// Brings about another [`Event::Queue`].
    pub again: &'a dyn Fn(usize),
}

impl Core {
    /// Deals with one event, if the device is to be served.
    pub(in super::super) fn handle(&mut self, event: Event, around: Around<'_>) {
        match event {
            Event::State => {
                if self.life == Life::Starting {
                    self.life = Life::Live;
                    self.serve(around, |device, io| device.activate(io));
                    // What was made available before the device was live.
                    for index in 0..self.queues.len() {
                        self.serve(around, |device, io| device.queue_event(index, io));
                    }
                }
            }
            Event::Backend => self.serve(around, |device, io| device.backend_event(io)),
            Event::Queue(index) => {
                self.serve(around, |device, io| device.queue_event(index, io));
            }
        }
    }

    /// Calls `event` on the device with its queues lent to it. An error breaks the device: it is
    /// not served again before the driver resets it.
    fn serve(
        &mut self,
        around: Around<'_>,
        event: impl FnOnce(&mut dyn VirtioDevice, &mut dyn DeviceIo) -> Result<(), DeviceError>,
    ) {
        if self.life != Life::Live {
            return;
        }
        let mut io = MmioIo {
            queues: &mut self.queues,
            memory: &self.memory,
            around,
            config_generation: &mut self.config_generation,
        };
        let result = event(&mut *self.device, &mut io);
        if let Err(error) = result {
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!(
                    device = self.device.device_type(),
                    error = &error as &dyn std::error::Error,
                    "the driver broke its device; it needs a reset"
                );
            }
            self.life = Life::Idle;
            self.status |= NEEDS_RESET;
            around.interrupt.raise(INTERRUPT_CONFIG);
        }
    }
}

struct MmioIo<'a> {
    queues: &'a mut [QueueRegisters],
    memory: &'a GuestMemoryMmap,
    around: Around<'a>,
    config_generation: &'a mut u32,
}

impl DeviceIo for MmioIo<'_> {
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)> {
        Some((self.queues.get_mut(index)?.queue()?, self.memory))
    }

    fn notify(&mut self, index: usize) -> Result<(), DeviceError> {
        if let Some((queue, memory)) = self.queue(index)
            && interrupts::wanted(queue, memory)?
        {
            self.around.interrupt.raise(INTERRUPT_USED);
        }
        Ok(())
    }

    fn again(&mut self, index: usize) {
        (self.around.again)(index);
    }

    fn config_changed(&mut self) {
        *self.config_generation = self.config_generation.wrapping_add(1);
        self.around.interrupt.raise(INTERRUPT_CONFIG);
    }
}
