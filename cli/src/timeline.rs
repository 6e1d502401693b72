//! When a run passed which point, by the clock that all processes of a host share.

use microagent_proto::control::{Step, StepName};
pub use microagent_vmm::supervisor::monotonic_micros;
use serde::{Deserialize, Serialize};

/// A point on the way from the command line to its exit code, in the order of a cached run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// The command line was understood.
    Cli,
    /// The supervisor's process was started.
    Spawned,
    /// The supervisor's program began.
    Supervisor,
    /// An empty VM was created.
    Prepared,
    /// Image, root file system, kernel and initramfs were found or made.
    LookedUp,
    /// The supervisor knew what to boot.
    #[serde(rename = "told")]
    StartReceived,
    /// Kernel and initramfs were in guest memory.
    Loaded,
    /// The VM, its vCPUs and its devices existed.
    Created,
    /// The first vCPU was about to enter the guest.
    Running,
    /// The guest kernel started its clock.
    Kernel,
    /// The agent's program began in the guest.
    Userspace,
    /// The agent reported.
    Agent,
    /// The root file system was mounted.
    Root,
    /// The command was executed.
    Exec,
    /// The first byte of its output was here.
    Output,
    /// The command's exit code was here.
    Exited,
}

/// A point that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// Which.
    pub mark: Mark,
    /// When, in microseconds of `CLOCK_MONOTONIC`.
    pub monotonic_micros: u64,
}

/// The points that were passed.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Timeline(Vec<TimelineEntry>);

impl Timeline {
    /// Notes that `mark` is passed now.
    pub fn record_now(&mut self, mark: Mark) {
        self.record(mark, monotonic_micros());
    }

    /// Notes when `mark` was passed.
    pub fn record(&mut self, mark: Mark, monotonic_micros: u64) {
        self.0.push(TimelineEntry {
            mark,
            monotonic_micros,
        });
    }

    /// Notes what the supervisor and the agent tell of the boot.
    ///
    /// The guest's clock is not ours. But both are read when the agent reports, which ties them
    /// together up to the length of one message; nothing has to leave the guest for a mark.
    pub fn record_boot(&mut self, ready: &GuestReady) {
        for step in &ready.steps {
            let mark = match step.name {
                StepName::Supervisor => Mark::Supervisor,
                StepName::Prepared => Mark::Prepared,
                StepName::StartReceived => Mark::StartReceived,
                StepName::Created => Mark::Created,
                StepName::Loaded => Mark::Loaded,
                StepName::Running => Mark::Running,
            };
            self.record(mark, step.monotonic_micros);
        }
        let zero = ready.monotonic_micros.saturating_sub(ready.uptime_micros);
        self.record(Mark::Kernel, zero);
        self.record(Mark::Userspace, zero.saturating_add(ready.started_micros));
        self.record(Mark::Agent, ready.monotonic_micros);
    }
}

/// What is known of the boot when the agent has reported.
#[derive(Debug)]
pub struct GuestReady {
    /// When it did, in microseconds of `CLOCK_MONOTONIC`.
    pub monotonic_micros: u64,
    /// The same moment by the guest's clock, in microseconds since its kernel started.
    pub uptime_micros: u64,
    /// When the agent's program began, by the guest's clock.
    pub started_micros: u64,
    /// The steps on the host.
    pub steps: Vec<Step>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_clock_is_tied_to_ours_by_its_report() {
        let mut timeline = Timeline::default();
        timeline.record_boot(&GuestReady {
            monotonic_micros: 10_000,
            uptime_micros: 4_000,
            started_micros: 3_500,
            steps: vec![Step {
                name: StepName::Running,
                monotonic_micros: 5_000,
            }],
        });
        let marks: Vec<_> = timeline
            .0
            .iter()
            .map(|passed| (passed.mark, passed.monotonic_micros))
            .collect();
        assert_eq!(
            marks,
            [
                (Mark::Running, 5_000),
                (Mark::Kernel, 6_000),
                (Mark::Userspace, 9_500),
                (Mark::Agent, 10_000),
            ]
        );
    }

    #[test]
    fn marks_keep_their_json() {
        let json = serde_json::to_string(&Mark::StartReceived).unwrap();
        assert_eq!(json, r#""told""#);
    }
}
