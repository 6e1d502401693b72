//! Engines: ways to run a VM's vCPUs.
//!
//! An engine takes a [`Launch`] (configuration, devices, console) and returns a [`RunningVm`].
//! Everything else (agent sessions, disks, host services) is the same for all engines.
//!
//! - [`kvm`]: this process runs the vCPUs on KVM.
//! - [`qemu`]: QEMU's `microvm` machine runs the vCPUs; the devices stay in this process and are
//!   served over vhost-user.

use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use microagent_proto::control::{Engine, StopReason, VmConfig};

pub use microagent_proto::control::StepName;

use crate::console::Console;
use crate::virtio::VirtioDevice;

pub mod kvm;
pub mod qemu;

/// The input of an engine.
#[derive(Debug)]
pub struct Launch<'a> {
    /// vCPUs, memory, kernel and initramfs. The devices were already created from `disks`.
    pub config: &'a VmConfig,
    /// The devices, in the order in which the guest must find them: disks first, so that the first
    /// disk is `vda`.
    pub devices: Vec<Device>,
    /// Receives the guest's console output.
    pub console: Console,
}

/// The maximum number of disks of a VM with this engine, including the root disk. `network` is
/// whether it has a network device.
pub fn max_disks(engine: Engine, network: bool) -> usize {
    // The vsock device and the entropy source.
    let others = 2 + usize::from(network);
    let devices = match engine {
        Engine::Kvm => crate::boot::layout::MAX_VIRTIO_DEVICES,
        Engine::Qemu => qemu::MAX_DEVICES,
    };
    devices - others
}

/// A device and its kind.
#[derive(Debug)]
pub struct Device {
    /// Decides which front end QEMU needs.
    pub kind: DeviceKind,
    /// The device itself.
    pub device: Box<dyn VirtioDevice>,
}

/// The kinds of devices a VM can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk.
    Block,
    /// The vsock device.
    Vsock,
    /// The entropy source.
    Rng,
    /// A network interface.
    Net,
}

/// A VM that an engine started. Dropping it kills the VM and waits for its threads and processes.
pub trait RunningVm: Send + Debug {
    /// Becomes readable when the VM has ended.
    fn ended_fd(&self) -> BorrowedFd<'_>;

    /// How the VM ended; `None` while it runs.
    ///
    /// # Errors
    /// When the VM ended because the engine failed.
    fn end(&mut self) -> Option<Result<StopReason, EngineError>>;

    /// Kills the VM without waiting; [`ended_fd`](Self::ended_fd) becomes readable.
    fn kill(&mut self);

    /// Kills the VM and closes its disks and other files of the host. Waits for requests that the
    /// host is working on.
    fn release(&mut self);

    /// Stops the vCPUs; returns when none runs. Devices complete the requests that they have. The
    /// guest's clocks go on, so that they are right when it runs again. Without effect on a VM that
    /// is paused or has ended.
    ///
    /// # Errors
    /// When they do not stop; then all of them run.
    fn pause(&mut self) -> Result<(), EngineError>;

    /// Lets the vCPUs run again. Without effect on a VM that runs.
    ///
    /// # Errors
    /// When the engine fails.
    fn resume(&mut self) -> Result<(), EngineError>;

    /// Saves a VM that is paused: writes its memory to `memory`, which must be empty, with holes where it
    /// is zero, and returns the [state file](crate::snapshot). The VM can go on afterwards. Open
    /// streams to the guest, and what its devices have of the host, are not part of it.
    ///
    /// # Errors
    /// When the engine cannot do it, the VM is not paused, or `memory` cannot be written.
    fn save(&mut self, memory: &std::fs::File) -> Result<Vec<u8>, EngineError>;

    /// The pages of a restored VM's memory that were written, of those that were saved, as
    /// [`kvm::restore`] takes them; `None` if the engine does not know.
    fn written_pages(&self) -> Option<Vec<Range<u64>>>;

    /// The other processes that belong to the VM.
    fn processes(&self) -> Vec<u32>;

    /// A report on a VM that seems to hang: devices and queues, the vCPUs' registers and their
    /// interrupts. Its size is bounded. Takes up to ten seconds if the engine itself hangs. Stops the
    /// vCPUs of engine `kvm` for a moment, and changes nothing else.
    fn diagnose(&mut self) -> String;
}

/// Why an engine could not start or keep running a VM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The kernel, the initramfs or the boot tables could not be loaded.
    #[error(transparent)]
    Boot(#[from] crate::boot::BootError),
    /// An operation on KVM failed.
    #[error("KVM: {operation} failed")]
    Kvm {
        /// The operation.
        operation: &'static str,
        /// The error from KVM.
        #[source]
        source: std::io::Error,
    },
    /// KVM cannot execute a guest instruction or state.
    #[error("KVM cannot run this guest: {0}")]
    Guest(String),
    /// A device could not be served to QEMU.
    #[error(transparent)]
    VhostUser(#[from] crate::vhost_user::VhostUserError),
    /// QEMU failed; the text is its error message.
    #[error("qemu-system-x86_64: {0}")]
    Qemu(String),
    /// The host lacks a requirement of the engine.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to provide it.
        remediation: String,
    },
    /// The engine cannot save a VM; this is its name.
    #[error("engine {0} cannot save a VM")]
    CannotSave(&'static str),
    /// A saved state cannot be used.
    #[error("the saved state of the VM cannot be used")]
    State(#[from] crate::snapshot::StateError),
    /// A system call failed.
    #[error("cannot {operation}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// The error of the system call.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// The remediation, if there is one.
    pub fn remediation(&self) -> Option<String> {
        match self {
            EngineError::Missing { remediation, .. } => Some(remediation.clone()),
            EngineError::Kvm { .. } | EngineError::Guest(_) => Some(kvm::REMEDIATION.into()),
            EngineError::Boot(error) => error.remediation(),
            EngineError::Qemu(_)
            | EngineError::VhostUser(_)
            | EngineError::CannotSave(_)
            | EngineError::State(_)
            | EngineError::Io { .. } => None,
        }
    }
}
