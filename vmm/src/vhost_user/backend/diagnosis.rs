//! The state of a served device as text, for diagnostics.

use std::sync::{MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_backend::VringT;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

use super::{Backend, Phase, State};
use crate::virtio::describe_queue;

/// The time limit for the event that the device is handling.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

impl Backend {
    /// The state of the device, then one line for each queue. A device that does not finish its
    /// current event within [`LOCK_TIMEOUT`] is reported as busy.
    pub(in crate::vhost_user) fn describe(&self) -> Vec<String> {
        let Some(state) = self.try_state() else {
            return vec![format!("{}: busy with an event", self.name)];
        };
        let phase = match state.phase {
            Phase::Idle => "idle",
            Phase::Active => "active",
            Phase::Broken => "stopped after a violation by the driver",
        };
        let features = match state.acknowledged {
            Some(features) => format!("{features:#x}"),
            None => "not negotiated".to_owned(),
        };
        let memory = state.memory.as_ref().map(GuestAddressSpace::memory);
        let mut lines = vec![format!(
            "{}: virtio device type {}, {phase}, features {features}, memory table {}",
            self.name,
            state.device.device_type(),
            if memory.is_some() {
                "received"
            } else {
                "not received"
            },
        )];
        let Some(rings) = self.rings.get() else {
            lines.push(format!("{}: no queue was notified", self.name));
            return lines;
        };
        for (index, ring) in rings.iter().enumerate() {
            let ring = ring.get_ref();
            let enabled = if ring.is_enabled() {
                "enabled"
            } else {
                "disabled"
            };
            let queue = ring.get_queue();
            let event_idx = if queue.event_idx_enabled() {
                "on"
            } else {
                "off"
            };
            let state = describe_queue(queue, memory.as_deref());
            lines.push(format!(
                "{}: queue {index}: {enabled}, event index {event_idx}, {state}",
                self.name
            ));
        }
        lines
    }

    fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }
}
