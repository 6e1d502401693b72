//! Engines: ways to run a VM's vCPUs.
//!
//! An engine gets a [`Launch`]: what to boot, the devices, where console bytes go. It gives back a
//! [`RunningVm`]. Everything else (agent sessions, disks, host services) is the same for all.
//!
//! - [`kvm`]: the monitor itself, in this process.
//! - [`qemu`]: QEMU's `microvm` machine runs the CPUs; the devices stay in this process and are
//!   reached over vhost-user.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use microagent_proto::control::{Engine, StopReason, VmConfig};

pub use microagent_proto::control::StepName;

use crate::console::Console;
use crate::virtio::VirtioDevice;

pub mod kvm;
pub mod qemu;

/// What an engine needs to start a VM.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Shape, kernel and initramfs. The devices were already made from `disks`.
    pub config: &'a VmConfig,
    /// The devices, in the order in which the guest shall find them: disks first, so that the
    /// first of them is `vda`.
    pub devices: Vec<Device>,
    /// Where the guest's console output goes.
    pub console: Console,
}

/// How many disks a VM can have with this engine, the root among them.
pub fn max_disks(engine: Engine) -> usize {
    // The socket device and the entropy source.
    const OTHERS: usize = 2;
    let devices = match engine {
        Engine::Kvm => crate::boot::layout::MAX_VIRTIO_DEVICES,
        Engine::Qemu => qemu::MAX_DEVICES,
    };
    devices - OTHERS
}

/// A device and what it is, for engines that must name it to somebody else.
#[derive(Debug)]
pub struct Device {
    /// Which front-end QEMU needs for it.
    pub kind: DeviceKind,
    /// The device itself.
    pub device: Box<dyn VirtioDevice>,
}

/// The kinds of devices a VM can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk.
    Block,
    /// The socket device.
    Vsock,
    /// The entropy source.
    Rng,
    /// A network interface.
    Net,
}

/// A VM that an engine started. Dropping it ends the VM and waits for its threads and processes.
pub trait RunningVm: Send + Debug {
    /// Becomes readable when the VM has ended.
    fn ended_fd(&self) -> BorrowedFd<'_>;

    /// How the VM ended; `None` while it runs.
    ///
    /// # Errors
    /// When it did not end, but the engine failed under it.
    fn end(&mut self) -> Option<Result<StopReason, EngineError>>;

    /// Ends the VM now; [`ended_fd`](Self::ended_fd) follows. Does not wait.
    fn kill(&mut self);

    /// The state of a VM that seems to hang, as text for a person: devices and queues, and on
    /// engine `qemu` the vCPUs' registers and the interrupt controllers. A few dozen KiB at most.
    /// Takes up to ten seconds when the engine itself hangs. The VM is not affected.
    fn diagnose(&mut self) -> String;
}

/// Why an engine could not start or keep running a VM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The kernel, the initramfs or the tables around them could not be put in place.
    #[error(transparent)]
    Boot(#[from] crate::boot::BootError),
    /// An operation on KVM failed.
    #[error("KVM: {operation} failed")]
    Kvm {
        /// What was asked of KVM.
        operation: &'static str,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// KVM gave up on a guest instruction or state.
    #[error("KVM cannot go on with this guest: {0}")]
    Guest(String),
    /// A device could not be put within QEMU's reach.
    #[error(transparent)]
    VhostUser(#[from] crate::vhost_user::VhostUserError),
    /// QEMU failed; the text is its own.
    #[error("qemu-system-x86_64: {0}")]
    Qemu(String),
    /// The host lacks something the engine needs.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remediation: String,
    },
    /// A system call failed.
    #[error("cannot {operation}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// The way out, where there is one.
    pub fn remediation(&self) -> Option<String> {
        match self {
            EngineError::Missing { remediation, .. } => Some(remediation.clone()),
            EngineError::Kvm { .. } | EngineError::Guest(_) => Some(
                "see what this host can do with `microagent doctor`, or use `--engine qemu`".into(),
            ),
            EngineError::Boot(error) => error.remediation(),
            EngineError::Qemu(_) | EngineError::VhostUser(_) | EngineError::Io { .. } => None,
        }
    }
}
