//! Warnings to the caller over the control socket, bounded in number and size.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use microagent_proto::control::FromSupervisor;
use microagent_proto::warning::{
    DiskFailure, DiskOperation, MAX_WARNING_TEXT, MAX_WARNINGS, Warning,
};

use super::Control;

/// Sends warnings. Clones share one limit.
#[derive(Debug, Clone)]
pub(super) struct Warnings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    control: Control,
    sent: AtomicUsize,
}

impl Warnings {
    /// Warnings on this socket.
    pub(super) fn new(control: Control) -> Warnings {
        Warnings(Arc::new(Shared {
            control,
            sent: AtomicUsize::new(0),
        }))
    }

    /// What a block device calls when a request fails: sends the failure of disk `index`.
    pub(super) fn of_disk(
        &self,
        index: usize,
    ) -> impl FnMut(DiskOperation, &io::Error) + Send + 'static {
        let warnings = self.clone();
        move |operation, error| {
            warnings.send(Warning::Disk(DiskFailure {
                index,
                operation,
                errno: error.raw_os_error(),
                error: shortened(error.to_string()),
            }));
        }
    }

    /// Sends a message of the log.
    pub(super) fn log(&self, message: String) {
        self.send(Warning::Log(shortened(message)));
    }

    /// Sends the warning unless the limit is reached. A device does not wait for long: the messages
    /// are few and small, and the caller has a thread that only reads them.
    fn send(&self, warning: Warning) {
        if self.0.sent.fetch_add(1, Ordering::Relaxed) < MAX_WARNINGS {
            // Fails only when the caller has closed its end; then the VM is killed anyway.
            let _ = self.0.control.send(&FromSupervisor::Warning(warning));
        }
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_WARNING_TEXT {
        let fits = (0..=MAX_WARNING_TEXT).rfind(|&end| text.is_char_boundary(end));
        text.truncate(fits.unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::testing::Caller;

    fn warnings() -> (Warnings, Caller) {
        let (caller, control) = Caller::connected();
        (Warnings::new(control), caller)
    }

    #[test]
    fn a_disk_failure_names_disk_operation_and_error() {
        let (warnings, caller) = warnings();
        warnings.of_disk(3)(DiskOperation::Flush, &io::Error::from_raw_os_error(28));
        let expected = FromSupervisor::Warning(Warning::Disk(DiskFailure {
            index: 3,
            operation: DiskOperation::Flush,
            errno: Some(28),
            error: "No space left on device (os error 28)".into(),
        }));
        assert_eq!(caller.received(), Some(expected));
    }

    #[test]
    fn the_number_and_the_size_of_warnings_are_limited() {
        let (warnings, caller) = warnings();
        for _ in 0..2 * MAX_WARNINGS {
            // Two bytes each: the limit is within a character.
            warnings.log(format!("x{}", "é".repeat(MAX_WARNING_TEXT)));
        }
        let expected = format!("x{}", "é".repeat(MAX_WARNING_TEXT / 2 - 1));
        let expected = FromSupervisor::Warning(Warning::Log(expected));
        for _ in 0..MAX_WARNINGS {
            assert_eq!(caller.received().as_ref(), Some(&expected));
        }
        assert_eq!(caller.received(), None);
    }
}
