//! Timestamps of a run by `CLOCK_MONOTONIC`, which all processes of the host share.

use microagent_proto::control::{Step, StepName};
pub use microagent_vmm::supervisor::monotonic_micros;
use serde::{Deserialize, Serialize};

/// A point between the start of the command and its exit code, in the order of a cached run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// The command line was parsed.
    Cli,
    /// The supervisor's process was spawned.
    Spawned,
    /// The supervisor's `main` began.
    Supervisor,
    /// An empty VM was created.
    Prepared,
    /// Image, root file system, kernel and initramfs are ready.
    LookedUp,
    /// The supervisor received the VM's configuration.
    #[serde(rename = "told")]
    StartReceived,
    /// Kernel and initramfs were in guest memory, or that of a saved VM was.
    Loaded,
    /// The VM, its vCPUs and its devices were created.
    Created,
    /// The first vCPU was about to enter the guest.
    Running,
    /// The guest kernel started its clock.
    Kernel,
    /// The guest agent's `main` began.
    Userspace,
    /// The guest agent reported, or was about to go on.
    Agent,
    /// The root file system was mounted.
    Root,
    /// The command was executed.
    Exec,
    /// The first byte of its output arrived.
    Output,
    /// The command's exit code arrived.
    Exited,
}

/// A mark and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineEntry {
    /// The mark.
    pub mark: Mark,
    /// Its time in microseconds of `CLOCK_MONOTONIC`.
    pub monotonic_micros: u64,
}

/// The marks of one run.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Timeline(Vec<TimelineEntry>);

impl Timeline {
    /// Records `mark` with the current time.
    pub fn record_now(&mut self, mark: Mark) {
        self.record(mark, monotonic_micros());
    }

    /// Records `mark` with the given time.
    pub fn record(&mut self, mark: Mark, monotonic_micros: u64) {
        self.0.push(TimelineEntry {
            mark,
            monotonic_micros,
        });
    }

    /// Records the marks of a guest that came up: only one that booted has that of its kernel.
    pub fn record_arrival(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::Booted(ready) => self.record_boot(ready),
            Arrival::Restored(restored) => {
                self.record_steps(&restored.steps);
                // It was ready when it was saved.
                if let Some(last) = restored.steps.last() {
                    self.record(Mark::Agent, last.monotonic_micros);
                }
            }
        }
    }

    /// Records the marks of the boot from the agent's report.
    ///
    /// Host and guest have different clocks. The report carries both, which aligns them up to the
    /// latency of one message, so marks cause no exits from the guest.
    fn record_boot(&mut self, ready: &GuestReady) {
        self.record_steps(&ready.steps);
        let zero = ready.monotonic_micros.saturating_sub(ready.uptime_micros);
        self.record(Mark::Kernel, zero);
        self.record(Mark::Userspace, zero.saturating_add(ready.started_micros));
        self.record(Mark::Agent, ready.monotonic_micros);
    }

    /// Whether it has the marks of a VM that was restored.
    pub fn is_restored(&self) -> bool {
        let has = |mark| self.0.iter().any(|entry| entry.mark == mark);
        has(Mark::Agent) && !has(Mark::Kernel)
    }

    fn record_steps(&mut self, steps: &[Step]) {
        for step in steps {
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
    }
}

/// How a guest came to accept commands.
#[derive(Debug)]
pub enum Arrival {
    /// It booted.
    Booted(GuestReady),
    /// It was restored.
    Restored(Restored),
}

/// A guest that goes on from a snapshot.
#[derive(Debug)]
pub struct Restored {
    /// The steps on the host.
    pub steps: Vec<Step>,
    /// The sizes of its disks in sectors, which its kernel may not know yet.
    pub disk_sectors: Vec<u64>,
}

/// The guest agent's report after boot.
#[derive(Debug)]
pub struct GuestReady {
    /// Time of the report in microseconds of the host's `CLOCK_MONOTONIC`.
    pub monotonic_micros: u64,
    /// Time of the report by the guest's clock, in microseconds since its kernel started.
    pub uptime_micros: u64,
    /// Time the agent's `main` began, by the guest's clock.
    pub started_micros: u64,
    /// The boot steps on the host.
    pub steps: Vec<Step>,
    /// Why it was not restored, if it was to be.
    pub not_restored: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_aligns_the_guests_clock_with_the_hosts() {
        let mut timeline = Timeline::default();
        timeline.record_boot(&GuestReady {
            monotonic_micros: 10_000,
            uptime_micros: 4_000,
            started_micros: 3_500,
            steps: vec![Step {
                name: StepName::Running,
                monotonic_micros: 5_000,
            }],
            not_restored: None,
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
