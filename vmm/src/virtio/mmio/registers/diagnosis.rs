//! The state of a device as text, for diagnostics.

use super::Core;

impl Core {
    /// The state of the device, then one line for each queue.
    pub(in super::super) fn describe(&self, name: &str) -> Vec<String> {
        let mut lines = vec![format!(
            "{name}: virtio device type {}, {:?}, status {:#x}, features {:#x}",
            self.device.device_type(),
            self.phase,
            self.status,
            self.driver_features,
        )];
        for (index, queue) in self.queues.iter().enumerate() {
            let state = queue.describe(&self.memory);
            lines.push(format!("{name}: queue {index}: {state}"));
        }
        lines
    }
}
