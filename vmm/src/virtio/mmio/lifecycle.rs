//! Pausing a device, saving it, restoring it, and letting it go on.
//!
//! The owner of the VM calls, in this order: stop the vCPUs, [`MmioTransport::pause`] each device,
//! [`save`](MmioTransport::save) each, save KVM's state, and then resume each and let the vCPUs run, or
//! end. A device that is paused has completed all requests that it has taken (the rule of
//! [`VirtioDevice`]), uses no memory of the guest and raises no interrupt. What a device has
//! beside its registers and queues is not saved: it must be one that can be had anew.

use std::io;

use vm_memory::GuestMemoryMmap;

use super::super::VirtioDevice;
use super::registers::{Core, RegisterState};
use super::{INTERRUPT_CONFIG, InterruptLine, MmioTransport};
use crate::snapshot::{Kind, StateError, StateFile, Writer};

/// Why a device cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its state is not one that this device can have.
    #[error(transparent)]
    State(#[from] StateError),
    /// The host is out of file descriptors or threads.
    #[error("cannot start it")]
    Io(#[from] io::Error),
}

impl MmioTransport {
    /// Stops the device between two events. The vCPUs must not run.
    pub fn pause(&self) {
        self.shared.core().pause();
        // The worker then does not wait for the host side either.
        let _ = self.shared.wake.write(1);
    }

    /// Lets a paused device go on, beginning with whatever its queues and its host side have.
    pub fn resume(&self) {
        self.shared.core().resume();
        let _ = self.shared.wake.write(1);
    }

    /// Adds the sections of this device, which must be paused and number `index`.
    ///
    /// # Errors
    /// When its host side cannot be [synced](VirtioDevice::sync).
    pub fn save(&self, index: u32, to: &mut Writer) -> io::Result<()> {
        let mut core = self.shared.core();
        core.sync()?;
        let status = self
            .shared
            .interrupt
            .status
            .load(std::sync::atomic::Ordering::SeqCst);
        core.state(status).write(index, to);
        Ok(())
    }

    /// As [`new`](Self::new), with the state of device `index`. It goes on at once, and tells the driver
    /// that its configuration has changed: its disk may have another size.
    ///
    /// # Errors
    /// When the state is not one that this device can have, or the host is out of descriptors or threads.
    pub fn restore(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        line: Box<dyn InterruptLine>,
        index: u32,
        from: &mut StateFile<'_>,
    ) -> Result<MmioTransport, RestoreError> {
        let state = RegisterState::read(index, from)?;
        let mut core = Core::new(device, memory)?;
        core.restore(&state).map_err(|why| StateError::Value {
            kind: Kind::Transport,
            why,
        })?;
        let driven = core.is_driven();
        let transport = MmioTransport::with_core(core, line, state.interrupt_status())?;
        if driven {
            transport.shared.interrupt.raise(INTERRUPT_CONFIG);
        }
        let _ = transport.shared.wake.write(1);
        Ok(transport)
    }
}
