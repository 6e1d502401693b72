//! vCPU threads, and the termination of a VM.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use microagent_proto::control::StopReason;
use rustix::event::EventfdFlags;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::super::EngineError;
use super::bus::Bus;
use super::gate::Gate;

/// How often the signal to a vCPU thread is repeated until the thread ends or waits. One signal can be lost:
/// it may arrive after the thread checked [`Termination`] and [`Gate`], before it enters the guest.
pub(super) const SIGNAL_INTERVAL: Duration = Duration::from_millis(1);

type Outcome = Result<StopReason, EngineError>;

/// The outcome of a VM, set once: the first report wins.
#[derive(Debug)]
pub(super) struct Termination {
    outcome: Mutex<State>,
    event: rustix::fd::OwnedFd,
}

#[derive(Debug)]
enum State {
    Running,
    Ended(Outcome),
    Taken,
}

impl Termination {
    pub(super) fn new() -> Result<Termination, EngineError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| EngineError::Io {
                operation: "create an event descriptor",
                source: error.into(),
            })?;
        Ok(Termination {
            outcome: Mutex::new(State::Running),
            event,
        })
    }

    /// Ends the VM with this outcome, unless it has already ended.
    pub(super) fn set(&self, outcome: Outcome) {
        let mut state = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Running) {
            *state = State::Ended(outcome);
            // Fails only if the counter is at its maximum; the event is then readable.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    pub(super) fn take(&self) -> Option<Outcome> {
        let mut state = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Running) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(outcome) => Some(outcome),
            State::Running | State::Taken => None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        !matches!(
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner),
            State::Running
        )
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The thread that runs one vCPU.
#[derive(Debug)]
pub(super) struct VcpuThread {
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread ends.
    alive: Receiver<()>,
}

impl VcpuThread {
    pub(super) fn spawn(
        index: usize,
        vcpu: VcpuFd,
        bus: Arc<Bus>,
        gate: Arc<Gate>,
        termination: Arc<Termination>,
    ) -> Result<VcpuThread, EngineError> {
        let error = |source| EngineError::Io {
            operation: "start a vCPU thread",
            source,
        };
        install_exit_signal().map_err(error)?;
        let (guard, alive) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .stack_size(256 << 10)
            .spawn(move || {
                let _guard = guard;
                let outcome = run(vcpu, &bus, &gate, &termination);
                termination.set(outcome);
            })
            .map_err(error)?;
        Ok(VcpuThread {
            thread: Some(thread),
            alive,
        })
    }

    /// Makes the thread leave the guest, usually: see [`SIGNAL_INTERVAL`].
    pub(super) fn interrupt(&self) {
        if let Some(thread) = &self.thread {
            // Fails only if the thread has ended.
            let _ = thread.kill(exit_signal());
        }
    }

    /// Makes the thread leave the guest and waits until it ends. [`Termination::set`] must have
    /// been called before, and the gate be open.
    pub(super) fn join(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        loop {
            let _ = thread.kill(exit_signal());
            match self.alive.recv_timeout(SIGNAL_INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        let _ = thread.join();
    }
}

/// Runs `vcpu` until the VM ends. Returns the outcome from the view of this vCPU.
fn run(mut vcpu: VcpuFd, bus: &Bus, gate: &Gate, termination: &Termination) -> Outcome {
    while !termination.has_ended() {
        if gate.pass() {
            // The guest's watchdogs must not take the pause for a lockup
            // (Documentation/virt/kvm/api.rst, `KVM_KVMCLOCK_CTRL`). Fails if the guest does not use
            // this clock; then it cannot be told.
            let _ = vcpu.kvmclock_ctrl();
            continue;
        }
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(address, data)) => bus.read_mmio(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => bus.write_mmio(address, data),
            Ok(VcpuExit::IoIn(port, data)) => bus.read_port(port, data),
            Ok(VcpuExit::IoOut(port, data)) => {
                if let Some(reason) = bus.write_port(port, data) {
                    return Ok(reason);
                }
            }
            Ok(VcpuExit::Shutdown) => return Ok(StopReason::Crash),
            Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::InternalError) => return Err(internal_error(&mut vcpu)),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Err(EngineError::Guest(format!(
                    "entry failed on host CPU {cpu}, hardware reason {reason:#x}"
                )));
            }
            Ok(other) => return Err(EngineError::Guest(format!("exit {other:?}"))),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => vcpu.set_kvm_immediate_exit(0),
                errno => {
                    return Err(EngineError::Kvm {
                        operation: "running a vCPU",
                        source: io::Error::from_raw_os_error(errno),
                    });
                }
            },
        }
    }
    Ok(StopReason::Killed)
}

/// The error of an instruction that KVM could not emulate, with its address.
fn internal_error(vcpu: &mut VcpuFd) -> EngineError {
    let address = vcpu.get_regs().map_or(0, |regs| regs.rip);
    EngineError::Guest(format!("cannot emulate the instruction at {address:#x}"))
}

fn exit_signal() -> i32 {
    SIGRTMIN()
}

/// Installs an empty handler: the signal only has to interrupt `KVM_RUN`.
fn install_exit_signal() -> io::Result<()> {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            register_signal_handler(exit_signal(), nothing).map_err(|error| error.errno())
        })
        .map_err(io::Error::from_raw_os_error)
}
