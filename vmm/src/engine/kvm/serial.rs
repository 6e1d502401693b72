//! The state of the serial port.

use vm_superio::serial::SerialState;

use crate::snapshot::{Kind, StateError, StateFile, Writer};

/// Its registers; what it has received and the guest has not read follows them.
const REGISTERS: usize = 9;

/// Adds its section.
pub(super) fn write(state: &SerialState, to: &mut Writer) {
    let registers: [u8; REGISTERS] = [
        state.baud_divisor_low,
        state.baud_divisor_high,
        state.interrupt_enable,
        state.interrupt_identification,
        state.line_control,
        state.line_status,
        state.modem_control,
        state.modem_status,
        state.scratch,
    ];
    to.section(
        Kind::Serial,
        0,
        &[&registers[..], &state.in_buffer].concat(),
    );
}

/// Takes its section.
///
/// # Errors
/// When it is missing or too short.
pub(super) fn read(from: &mut StateFile<'_>) -> Result<SerialState, StateError> {
    let payload = from.take(Kind::Serial, 0)?;
    let (registers, in_buffer) = payload
        .split_first_chunk::<REGISTERS>()
        .ok_or(StateError::Payload(Kind::Serial))?;
    let &[
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable,
        interrupt_identification,
        line_control,
        line_status,
        modem_control,
        modem_status,
        scratch,
    ] = registers;
    Ok(SerialState {
        baud_divisor_low,
        baud_divisor_high,
        interrupt_enable,
        interrupt_identification,
        line_control,
        line_status,
        modem_control,
        modem_status,
        scratch,
        in_buffer: in_buffer.to_vec(),
    })
}
