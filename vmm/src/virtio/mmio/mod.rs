//! The virtio-mmio transport, version 2 (virtio 1.2 section 4.2).
//!
//! ```text
//! vCPU thread ── registers ──────▶ ┌────────────┐ ◀── worker thread (one per device)
//!                                  │ Mutex<Core>│       epoll: notify eventfds, the device's
//! KVM ioeventfd ── QueueNotify ──▶ └────────────┘       backend_fd, changes of state
//!                         interrupt line ◀── used buffers
//! ```
//!
//! Register accesses take the device's lock, except those of interrupt handlers
//! (`InterruptStatus`, `InterruptACK`): a vCPU that handles an interrupt never waits for disk I/O.
//! Only the worker processes requests.

#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
mod lifecycle;
mod queue;
mod registers;
mod worker;

use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use self::lifecycle::RestoreError;
use self::registers::Core;
use super::VirtioDevice;

/// The interrupt line of a device, edge-triggered.
pub trait InterruptLine: Send + Sync + Debug {
    /// Raises and lowers the line.
    fn pulse(&self);
}

/// `InterruptStatus` bit 0: buffers were used.
const INTERRUPT_USED: u32 = 1 << 0;
/// `InterruptStatus` bit 1: the configuration or the device's status changed.
const INTERRUPT_CONFIG: u32 = 1 << 1;

#[derive(Debug)]
struct Interrupt {
    status: AtomicU32,
    line: Box<dyn InterruptLine>,
}

impl Interrupt {
    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.line.pulse();
    }
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    interrupt: Interrupt,
    /// Wakes the worker after a change of the device's state.
    wake: EventFd,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        // If the worker has panicked, the device does nothing; its registers can still be read.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A virtio device on the MMIO transport. Dropping it stops its worker.
#[derive(Debug)]
pub struct MmioTransport {
    shared: Arc<Shared>,
    notify_eventfds: Vec<EventFd>,
    worker: Option<JoinHandle<()>>,
}

impl MmioTransport {
    /// Attaches `device` to the transport and starts its worker.
    ///
    /// # Errors
    /// When the host is out of file descriptors or threads.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemoryMmap,
        line: Box<dyn InterruptLine>,
    ) -> io::Result<MmioTransport> {
        MmioTransport::with_core(Core::new(device, memory)?, line, 0)
    }

    fn with_core(
        core: Core,
        line: Box<dyn InterruptLine>,
        interrupt_status: u32,
    ) -> io::Result<MmioTransport> {
        let notify_eventfds = core
            .device()
            .queue_sizes()
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            interrupt: Interrupt {
                status: AtomicU32::new(interrupt_status),
                line,
            },
            wake: EventFd::new(EFD_NONBLOCK)?,
        });
        let worker = worker::spawn(Arc::clone(&shared), &notify_eventfds)?;
        Ok(MmioTransport {
            shared,
            notify_eventfds,
            worker: Some(worker),
        })
    }

    /// One eventfd for each queue, for KVM's ioeventfds. Writing to it is equivalent to writing the
    /// index of the queue to `QueueNotify`.
    pub fn notify_eventfds(&self) -> &[EventFd] {
        &self.notify_eventfds
    }

    /// The state of the device, then one line for each queue, for diagnostics. Lines start with
    /// `name`. Does not block: a device that is handling an event is reported as busy.
    pub fn describe(&self, name: &str) -> Vec<String> {
        match self.shared.core.try_lock() {
            Ok(core) => core.describe(name),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().describe(name),
            Err(TryLockError::WouldBlock) => vec![format!("{name}: busy with an event")],
        }
    }

    /// Handles a read by a vCPU of `data.len()` bytes at register offset `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset == registers::INTERRUPT_STATUS && data.len() == 4 {
            let status = self.shared.interrupt.status.load(Ordering::SeqCst);
            data.copy_from_slice(&status.to_le_bytes());
        } else {
            self.shared.core().read(offset, data);
        }
    }

    /// Handles a write by a vCPU of `data` at register offset `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return self.shared.core().write_config(offset, data);
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            registers::INTERRUPT_ACK => {
                self.shared
                    .interrupt
                    .status
                    .fetch_and(!value, Ordering::SeqCst);
            }
            registers::QUEUE_NOTIFY => {
                if let Some(eventfd) = self.notify_eventfds.get(value as usize) {
                    // Fails only if the counter is at its maximum, and then it is readable already.
                    let _ = eventfd.write(1);
                }
            }
            _ => {
                let mut core = self.shared.core();
                let change = core.write(offset, value);
                drop(core);
                if change == registers::Change::Reset {
                    self.shared.interrupt.status.store(0, Ordering::SeqCst);
                }
                if change != registers::Change::None {
                    let _ = self.shared.wake.write(1);
                }
            }
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.shared.core().stop();
        let _ = self.shared.wake.write(1);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests;
