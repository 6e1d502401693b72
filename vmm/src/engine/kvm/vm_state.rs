//! The state of the VM itself: its clock and its interrupt controllers.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use kvm_ioctls::VmFd;

use super::super::EngineError;
use super::kvm_error;
use crate::snapshot::{Kind, StateError, StateFile, Writer};

const CONTROLLERS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// The state of a VM whose vCPUs do not run and whose devices raise no interrupts.
pub(super) struct VmState {
    clock: kvm_clock_data,
    controllers: [kvm_irqchip; CONTROLLERS.len()],
}

impl VmState {
    /// Reads it from KVM.
    ///
    /// # Errors
    /// When KVM fails.
    pub(super) fn save(vm: &VmFd) -> Result<VmState, EngineError> {
        let clock = vm.get_clock().map_err(kvm_error("saving the clock"))?;
        let mut controllers = [kvm_irqchip::default(); CONTROLLERS.len()];
        for (controller, chip_id) in controllers.iter_mut().zip(CONTROLLERS) {
            controller.chip_id = chip_id;
            vm.get_irqchip(controller)
                .map_err(kvm_error("saving an interrupt controller"))?;
        }
        Ok(VmState { clock, controllers })
    }

    /// Gives a VM with its vCPUs this state.
    ///
    /// # Errors
    /// When KVM fails.
    pub(super) fn restore(&self, vm: &VmFd) -> Result<(), EngineError> {
        // Without flags: with `KVM_CLOCK_REALTIME` the guest's monotonic clock would jump.
        let clock = kvm_clock_data {
            clock: self.clock.clock,
            ..Default::default()
        };
        vm.set_clock(&clock)
            .map_err(kvm_error("restoring the clock"))?;
        for controller in &self.controllers {
            vm.set_irqchip(controller)
                .map_err(kvm_error("restoring an interrupt controller"))?;
        }
        Ok(())
    }

    /// Adds its sections.
    pub(super) fn write(&self, to: &mut Writer) {
        to.value(Kind::Clock, 0, &self.clock);
        for controller in &self.controllers {
            to.value(Kind::InterruptController, controller.chip_id, controller);
        }
    }

    /// Takes its sections.
    ///
    /// # Errors
    /// When one is missing, has another length, or is of another controller.
    pub(super) fn read(from: &mut StateFile<'_>) -> Result<VmState, StateError> {
        let mut controllers = [kvm_irqchip::default(); CONTROLLERS.len()];
        for (controller, chip_id) in controllers.iter_mut().zip(CONTROLLERS) {
            *controller = from.value(Kind::InterruptController, chip_id)?;
            if controller.chip_id != chip_id {
                return Err(StateError::Value {
                    kind: Kind::InterruptController,
                    why: "it is another controller",
                });
            }
        }
        Ok(VmState {
            clock: from.value(Kind::Clock, 0)?,
            controllers,
        })
    }
}
