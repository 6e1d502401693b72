//! The I/O ports by which a guest powers off or resets, as described in the FADT.

use microagent_proto::control::StopReason;

use crate::boot::layout::{
    RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_S5,
};

/// Sleep control register (ACPI 6.5 table 4.24): the enable bit, and the position of the type.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// The keyboard controller's command port and its reset command. The FADT does not describe it, but
/// Linux falls back to it and bare guests use it.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// How a write to `port` ends the VM; `None` when it does not.
pub(super) fn write(port: u16, data: &[u8]) -> Option<StopReason> {
    match (port, data) {
        (SLEEP_CONTROL_PORT, &[value])
            if value & SLEEP_ENABLE != 0 && value >> SLEEP_TYPE_SHIFT & 7 == SLEEP_TYPE_S5 =>
        {
            Some(StopReason::PowerOff)
        }
        (RESET_PORT, &[RESET_VALUE]) | (I8042_COMMAND_PORT, &[I8042_RESET]) => {
            Some(StopReason::Reset)
        }
        _ => None,
    }
}

/// Whether `port` reads as zero: the sleep status register (never waking up) and the control
/// register.
pub(super) fn is_status(port: u16) -> bool {
    port == SLEEP_STATUS_PORT || port == SLEEP_CONTROL_PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_soft_off_and_reset_end_the_vm() {
        assert_eq!(write(0x600, &[5 << 2 | 1 << 5]), Some(StopReason::PowerOff));
        assert_eq!(write(0x600, &[5 << 2]), None);
        assert_eq!(write(0x600, &[3 << 2 | 1 << 5]), None);
        assert_eq!(write(0x602, &[1]), Some(StopReason::Reset));
        assert_eq!(write(0x602, &[0]), None);
        assert_eq!(write(0x64, &[0xfe]), Some(StopReason::Reset));
        assert_eq!(write(0x80, &[0]), None);
        assert_eq!(write(0x600, &[0x34, 0x12]), None);
    }
}
