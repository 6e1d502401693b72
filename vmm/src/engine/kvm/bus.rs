//! Port and memory-mapped I/O of the vCPUs: COM1, the power ports, virtio-mmio.

use std::io;
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::IoEventAddress;
use microagent_proto::control::StopReason;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::super::{Device, EngineError};
use super::vm::Vm;
use super::{kvm_error, power, serial};
use crate::boot::layout;
use crate::console::Console;
use crate::snapshot::{Kind, StateError, StateFile, Writer};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::{InterruptLine, MmioTransport, RestoreError};

/// The offset of `QueueNotify` (virtio 1.2 table 4.1), handled in the kernel by ioeventfd.
const QUEUE_NOTIFY: u64 = 0x50;

/// The last port of COM1.
const SERIAL_END: u16 = layout::SERIAL_PORT + 7;

#[derive(Debug)]
struct SerialLine(Box<dyn InterruptLine>);

impl Trigger for SerialLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.pulse();
        Ok(())
    }
}

/// Handles the I/O exits of all vCPUs.
#[derive(Debug)]
pub(super) struct Bus {
    serial: Mutex<Serial<SerialLine, NoEvents, Console>>,
    virtio: Vec<MmioTransport>,
}

impl Bus {
    /// Assigns addresses and interrupts to the devices and starts them.
    pub(super) fn new(vm: &Vm, devices: Vec<Device>, console: Console) -> Result<Bus, EngineError> {
        let virtio = attach(vm, devices, |device, line, _| {
            MmioTransport::new(device, vm.memory().clone(), line).map_err(start_error)
        })?;
        let line = SerialLine(vm.interrupt_line(layout::SERIAL_GSI));
        Ok(Bus {
            serial: Mutex::new(Serial::new(line, console)),
            virtio,
        })
    }

    /// The same, with the state that was saved of the devices. They go on at once.
    pub(super) fn restore(
        vm: &Vm,
        devices: Vec<Device>,
        console: Console,
        from: &mut StateFile<'_>,
    ) -> Result<Bus, EngineError> {
        let line = SerialLine(vm.interrupt_line(layout::SERIAL_GSI));
        let state = serial::read(from)?;
        let serial =
            Serial::from_state(&state, line, NoEvents, console).map_err(|_| StateError::Value {
                kind: Kind::Serial,
                why: "its buffer is too long",
            })?;
        let virtio = attach(vm, devices, |device, line, index| {
            let memory = vm.memory().clone();
            MmioTransport::restore(device, memory, line, index, from).map_err(|error| match error {
                RestoreError::State(error) => error.into(),
                RestoreError::Io(error) => start_error(error),
            })
        })?;
        Ok(Bus {
            serial: Mutex::new(serial),
            virtio,
        })
    }

    /// Stops the devices; the vCPUs must not run.
    pub(super) fn pause(&self) {
        self.virtio.iter().for_each(MmioTransport::pause);
    }

    /// Lets paused devices go on.
    pub(super) fn resume(&self) {
        self.virtio.iter().for_each(MmioTransport::resume);
    }

    /// Adds the sections of the devices, which must be paused.
    ///
    /// # Errors
    /// When what a device has of the host cannot be made durable.
    pub(super) fn save(&self, to: &mut Writer) -> io::Result<()> {
        let serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial::write(&serial.state(), to);
        for (device, index) in self.virtio.iter().zip(0..) {
            device.save(index, to)?;
        }
        Ok(())
    }

    /// The number of virtio devices.
    pub(super) fn devices(&self) -> usize {
        self.virtio.len()
    }

    /// A vCPU reads a port. Unassigned ports read as all ones, as on a real bus.
    pub(super) fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let ([byte], layout::SERIAL_PORT..=SERIAL_END) = (&mut *data, port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            *byte = serial.read((port - layout::SERIAL_PORT) as u8);
        } else if power::is_status(port) {
            data.fill(0);
        }
    }

    /// A vCPU writes a port; `Some` when that ends the VM.
    pub(super) fn write_port(&self, port: u16, data: &[u8]) -> Option<StopReason> {
        if let (&[byte], layout::SERIAL_PORT..=SERIAL_END) = (data, port) {
            let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
            // Fails only if the console fails, which it never does.
            let _ = serial.write((port - layout::SERIAL_PORT) as u8, byte);
            return None;
        }
        power::write(port, data)
    }

    /// A vCPU reads a guest-physical address outside RAM.
    pub(super) fn read_mmio(&self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// A vCPU writes a guest-physical address outside RAM.
    pub(super) fn write_mmio(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.virtio_at(address) {
            device.write(offset, data);
        }
    }

    /// The state of the virtio devices and their queues, for diagnostics.
    pub(super) fn describe(&self) -> Vec<String> {
        let devices = self.virtio.iter().enumerate();
        devices
            .flat_map(|(index, device)| device.describe(&format!("device{index}")))
            .collect()
    }

    fn virtio_at(&self, address: u64) -> Option<(&MmioTransport, u64)> {
        let distance = address.checked_sub(layout::VIRTIO_MMIO)?;
        let index = usize::try_from(distance / layout::VIRTIO_MMIO_SIZE).ok()?;
        Some((self.virtio.get(index)?, distance % layout::VIRTIO_MMIO_SIZE))
    }
}

/// Gives each device an address and an interrupt line, and starts it with `start`, which gets its number.
fn attach(
    vm: &Vm,
    devices: Vec<Device>,
    mut start: impl FnMut(
        Box<dyn VirtioDevice>,
        Box<dyn InterruptLine>,
        u32,
    ) -> Result<MmioTransport, EngineError>,
) -> Result<Vec<MmioTransport>, EngineError> {
    if devices.len() > layout::MAX_VIRTIO_DEVICES {
        return Err(EngineError::Missing {
            what: format!("{} virtio devices are too many for one VM", devices.len()),
            remediation: format!("use at most {}", layout::MAX_VIRTIO_DEVICES),
        });
    }
    devices
        .into_iter()
        .zip(0..)
        .map(|(device, index)| {
            let line = vm.interrupt_line(layout::FIRST_VIRTIO_GSI + index);
            let transport = start(device.device, line, index)?;
            let notify = IoEventAddress::Mmio(layout::virtio_mmio(index as usize) + QUEUE_NOTIFY);
            for (queue, eventfd) in transport.notify_eventfds().iter().enumerate() {
                vm.fd()
                    .register_ioevent(eventfd, &notify, queue as u32)
                    .map_err(kvm_error("registering a queue notification"))?;
            }
            Ok(transport)
        })
        .collect()
}

fn start_error(source: io::Error) -> EngineError {
    EngineError::Io {
        operation: "start a virtio device",
        source,
    }
}
