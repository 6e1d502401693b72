//! The ports at which a guest powers off or resets, as the FADT describes them.

use microagent_proto::control::StopReason;

use crate::boot::layout::{
    RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_S5,
};

/// Sleep control register (ACPI 6.5 table 4.24): the enable bit, and where the type is.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// The keyboard controller's command port and its reset command: not described, but what Linux
/// falls back to and what bare guests use.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// What the guest's write to `port` means for the VM; `None` when it is not about power.
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

/// Whether `port` is the sleep status register, which reads as zero: never waking from sleep.
pub(super) fn is_status(port: u16) -> bool {
    port == SLEEP_STATUS_PORT || port == SLEEP_CONTROL_PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_and_reset_are_told_apart_from_everything_else() {
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
