//! Event handling: what the worker passes to the device.

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::super::super::{DeviceError, DeviceIo, VirtioDevice, interrupts};
use super::super::queue::QueueRegisters;
use super::super::{INTERRUPT_CONFIG, INTERRUPT_USED, Interrupt};
use super::{Core, NEEDS_RESET, Phase};

/// An event of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Event {
    /// The device's state may have changed.
    State,
    /// The device's [`backend_fd`](VirtioDevice::backend_fd) is readable.
    Backend,
    /// The driver has notified this queue, or the device has rescheduled it.
    Queue(usize),
}

/// What the worker lends while handling one event.
#[derive(Clone, Copy)]
pub(in super::super) struct EventContext<'a> {
    pub interrupt: &'a Interrupt,
    /// Requests another [`Event::Queue`].
    pub reschedule: &'a dyn Fn(usize),
}

impl Core {
    /// Handles one event, if the device is active and not paused.
    pub(in super::super) fn handle(&mut self, event: Event, context: EventContext<'_>) {
        if self.paused {
            return;
        }
        match event {
            Event::State => {
                let activate = self.phase == Phase::Activating;
                if activate {
                    self.phase = Phase::Active;
                    self.serve(context, |device, io| device.activate(io));
                }
                // The driver may have added chains before the device was active, or while it was paused.
                if activate || std::mem::take(&mut self.resumed) {
                    for index in 0..self.queues.len() {
                        self.serve(context, |device, io| device.queue_event(index, io));
                    }
                }
            }
            Event::Backend => self.serve(context, |device, io| device.backend_event(io)),
            Event::Queue(index) => {
                self.serve(context, |device, io| device.queue_event(index, io));
            }
        }
    }

    /// Calls `event` with the device and its queues. After an error, the device is not served
    /// until the driver resets it.
    fn serve(
        &mut self,
        context: EventContext<'_>,
        event: impl FnOnce(&mut dyn VirtioDevice, &mut dyn DeviceIo) -> Result<(), DeviceError>,
    ) {
        if self.phase != Phase::Active {
            return;
        }
        let mut io = MmioIo {
            queues: &mut self.queues,
            memory: &self.memory,
            context,
            config_generation: &mut self.config_generation,
        };
        let result = event(&mut *self.device, &mut io);
        if let Err(error) = result {
            if !std::mem::replace(&mut self.warned, true) {
                tracing::warn!(
                    device = self.device.device_type(),
                    error = &error as &dyn std::error::Error,
                    "driver error; the device needs a reset"
                );
            }
            self.phase = Phase::Inactive;
            self.status |= NEEDS_RESET;
            context.interrupt.raise(INTERRUPT_CONFIG);
        }
    }
}

struct MmioIo<'a> {
    queues: &'a mut [QueueRegisters],
    memory: &'a GuestMemoryMmap,
    context: EventContext<'a>,
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
            self.context.interrupt.raise(INTERRUPT_USED);
        }
        Ok(())
    }

    fn reschedule(&mut self, index: usize) {
        (self.context.reschedule)(index);
    }

    fn config_changed(&mut self) {
        *self.config_generation = self.config_generation.wrapping_add(1);
        self.context.interrupt.raise(INTERRUPT_CONFIG);
    }
}
