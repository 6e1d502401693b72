//! The phases of a boot, each from one point of a run to another. Phases may overlap.

use microagent_workspace::machine::timeline::Mark;
use serde::Serialize;

use super::iteration::Iteration;
use super::statistics::Summary;

/// A point of a measured run.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// Before the process was spawned.
    Start,
    /// A mark of the run's timeline.
    At(Mark),
    /// The process exited.
    Exit,
    /// The VM's process was gone.
    VmGone,
}

use Mark::{
    Agent, Cli, Created, Exec, Exited, Kernel, Loaded, LookedUp, Output, Prepared, Root, Running,
    Spawned, StartReceived, Supervisor, Userspace,
};
use Point::{At, Exit, Start, VmGone};

/// Name, start and end of each phase.
const PARTS: [(&str, Point, Point); 17] = [
    ("command line starts", Start, At(Cli)),
    ("supervisor spawned", At(Cli), At(Spawned)),
    ("supervisor starts", At(Spawned), At(Supervisor)),
    ("VM created", At(Supervisor), At(Prepared)),
    ("node look-ups", At(Spawned), At(LookedUp)),
    ("supervisor configured", At(LookedUp), At(StartReceived)),
    ("kernel loaded", At(StartReceived), At(Loaded)),
    ("vCPUs, devices", At(Loaded), At(Created)),
    ("first instruction", At(Created), At(Running)),
    ("kernel entry", At(Running), At(Kernel)),
    ("kernel", At(Kernel), At(Userspace)),
    ("agent ready", At(Userspace), At(Agent)),
    ("root mounted", At(Agent), At(Root)),
    ("command executed", At(Root), At(Exec)),
    ("first output", At(Exec), At(Output)),
    ("command exits", At(Output), At(Exited)),
    ("caller has the exit code", At(Exited), Exit),
];

/// One phase of a boot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its start in milliseconds after the spawn of the process; the median.
    pub start_millis: f64,
    /// Its duration in milliseconds.
    pub millis: Summary,
}

/// The phases present in every iteration, in order.
pub fn parts(iterations: &[Iteration]) -> Vec<Part> {
    PARTS
        .iter()
        .filter_map(|&(name, from, to)| {
            let start = summary(iterations, Start, from)?;
            Some(Part {
                name,
                start_millis: start.median,
                millis: summary(iterations, from, to)?,
            })
        })
        .collect()
}

/// Totals over all iterations, in milliseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// From the spawn of the process to the agent's report.
    pub to_agent_millis: Summary,
    /// From the spawn of the process to the first byte of the command's output, if any.
    pub to_first_output_millis: Option<Summary>,
    /// From the spawn of the process to its exit.
    pub to_exit_code_millis: Summary,
    /// From the exit of the process to the end of the VM's process, which callers do not wait for.
    pub teardown_millis: Summary,
}

/// The totals; `None` if there are no iterations or one lacks the agent mark.
pub fn totals(iterations: &[Iteration]) -> Option<Totals> {
    Some(Totals {
        to_agent_millis: summary(iterations, Start, At(Agent))?,
        to_first_output_millis: summary(iterations, Start, At(Output)),
        to_exit_code_millis: summary(iterations, Start, Exit)?,
        teardown_millis: summary(iterations, Exit, VmGone)?,
    })
}

fn summary(iterations: &[Iteration], from: Point, to: Point) -> Option<Summary> {
    let spans: Option<Vec<f64>> = iterations
        .iter()
        .map(|iteration| {
            let (from, to) = (at(iteration, from)?, at(iteration, to)?);
            // Host and guest clocks are aligned only up to microseconds, so a difference can be
            // negative; it counts as zero.
            Some(to.saturating_sub(from) as f64 / 1000.0)
        })
        .collect();
    Summary::of(spans?)
}

fn at(iteration: &Iteration, point: Point) -> Option<u64> {
    match point {
        Start => Some(iteration.started),
        Exit => Some(iteration.exited),
        VmGone => Some(iteration.vm_gone),
        At(mark) => {
            let passed = iteration.marks.iter().find(|passed| passed.mark == mark)?;
            Some(passed.monotonic_micros)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_workspace::machine::timeline::TimelineEntry;

    fn iteration(marks: &[(Mark, u64)]) -> Iteration {
        Iteration {
            started: 1000,
            restored: false,
            marks: marks
                .iter()
                .map(|&(mark, monotonic_micros)| TimelineEntry {
                    mark,
                    monotonic_micros,
                })
                .collect(),
            exited: 9000,
            vm_gone: 9500,
        }
    }

    #[test]
    fn a_phase_lies_between_its_points() {
        let runs = [
            iteration(&[(Cli, 1500), (Spawned, 1750), (Agent, 4000)]),
            iteration(&[(Cli, 2500), (Spawned, 2750), (Agent, 6000)]),
        ];
        let parts = parts(&runs);
        let seen: Vec<_> = parts
            .iter()
            .map(|part| (part.name, part.start_millis, part.millis.median))
            .collect();
        assert_eq!(
            seen,
            [
                ("command line starts", 0.0, 1.0),
                ("supervisor spawned", 1.0, 0.25),
            ]
        );
        let totals = totals(&runs).unwrap();
        assert_eq!(totals.to_agent_millis.median, 4.0);
        assert_eq!(totals.to_first_output_millis, None);
        assert_eq!(totals.teardown_millis.max, 0.5);
    }

    #[test]
    fn no_iterations_give_no_phases_and_no_totals() {
        assert!(parts(&[]).is_empty());
        assert!(totals(&[]).is_none());
    }
}
