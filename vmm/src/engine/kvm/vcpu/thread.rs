//! The threads that run the vCPUs.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use microagent_proto::control::StopReason;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::super::super::EngineError;
use super::super::bus::Bus;
use super::super::gate::Gate;
use super::termination::{Outcome, Termination};

/// How often the signal to a vCPU thread is repeated until the thread ends or waits. One signal can be lost:
/// it may arrive after the thread checked [`Termination`] and [`Gate`], before it enters the guest.
pub(in super::super) const SIGNAL_INTERVAL: Duration = Duration::from_millis(1);

/// The thread that runs one vCPU.
#[derive(Debug)]
pub(in super::super) struct VcpuThread {
    thread: Option<JoinHandle<()>>,
    /// Disconnected when the thread ends.
    alive: Receiver<()>,
    /// Locked by the thread, except where the gate is closed.
    vcpu: Arc<Mutex<VcpuFd>>,
}

impl VcpuThread {
    pub(in super::super) fn spawn(
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
        let vcpu = Arc::new(Mutex::new(vcpu));
        let run_by_thread = Arc::clone(&vcpu);
        let thread = thread::Builder::new()
            .name(format!("vcpu-{index}"))
            .stack_size(256 << 10)
            .spawn(move || {
                let _guard = guard;
                let outcome = run(&run_by_thread, &bus, &gate, &termination);
                termination.set(outcome);
            })
            .map_err(error)?;
        Ok(VcpuThread {
            thread: Some(thread),
            alive,
            vcpu,
        })
    }

    /// The vCPU, for reading and changing its state. Waits until the gate is closed, and its thread
    /// waits there or has ended.
    pub(in super::super) fn vcpu(&self) -> MutexGuard<'_, VcpuFd> {
        lock(&self.vcpu)
    }

    /// Makes the thread leave the guest, usually: see [`SIGNAL_INTERVAL`].
    pub(in super::super) fn interrupt(&self) {
        if let Some(thread) = &self.thread {
            // Fails only if the thread has ended.
            let _ = thread.kill(exit_signal());
        }
    }

    /// Makes the thread leave the guest and waits until it ends. [`Termination::set`] must have
    /// been called before, and the gate be open.
    pub(in super::super) fn join(&mut self) {
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

fn lock(vcpu: &Mutex<VcpuFd>) -> MutexGuard<'_, VcpuFd> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a vCPU until the VM ends. Returns the outcome from the view of this vCPU.
fn run(shared: &Mutex<VcpuFd>, bus: &Bus, gate: &Gate, termination: &Termination) -> Outcome {
    let mut vcpu = lock(shared);
    let mut is_complete = false;
    while !termination.has_ended() {
        if gate.is_closed() {
            if is_complete {
                drop(vcpu);
                gate.pass();
                vcpu = lock(shared);
                // The guest's watchdogs must not take the pause for a lockup
                // (Documentation/virt/kvm/api.rst, `KVM_KVMCLOCK_CTRL`). Fails if the guest does not use
                // this clock; then it cannot be told.
                let _ = vcpu.kvmclock_ctrl();
                continue;
            }
            // The instruction of the last exit is completed when the vCPU runs again, which this lets
            // it do without entering the guest (api.rst, `immediate_exit`).
            vcpu.set_kvm_immediate_exit(1);
        }
        match vcpu.run() {
            Ok(exit) => {
                is_complete = false;
                match handle(exit, bus) {
                    Next::Run => {}
                    Next::End(outcome) => return outcome,
                    Next::CannotEmulate => return Err(internal_error(&vcpu)),
                }
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => {
                    is_complete = true;
                    vcpu.set_kvm_immediate_exit(0);
                }
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

/// What follows an exit.
enum Next {
    Run,
    End(Outcome),
    CannotEmulate,
}

/// Handles one exit.
fn handle(exit: VcpuExit<'_>, bus: &Bus) -> Next {
    match exit {
        VcpuExit::MmioRead(address, data) => bus.read_mmio(address, data),
        VcpuExit::MmioWrite(address, data) => bus.write_mmio(address, data),
        VcpuExit::IoIn(port, data) => bus.read_port(port, data),
        VcpuExit::IoOut(port, data) => {
            if let Some(reason) = bus.write_port(port, data) {
                return Next::End(Ok(reason));
            }
        }
        VcpuExit::Shutdown => return Next::End(Ok(StopReason::Crash)),
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {}
        VcpuExit::InternalError => return Next::CannotEmulate,
        VcpuExit::FailEntry(reason, cpu) => {
            return Next::End(Err(EngineError::Guest(format!(
                "entry failed on host CPU {cpu}, hardware reason {reason:#x}"
            ))));
        }
        other => return Next::End(Err(EngineError::Guest(format!("exit {other:?}")))),
    }
    Next::Run
}

/// The error of an instruction that KVM could not emulate, with its address.
fn internal_error(vcpu: &VcpuFd) -> EngineError {
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
