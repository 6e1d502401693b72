//! The parts of a boot: each from one point of a run to another. Parts may overlap.

use serde::Serialize;

use super::iteration::Iteration;
use super::statistics::Summary;
use crate::timeline::Mark;

/// A point of a run, as seen from outside.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// Before the process.
    Start,
    /// StartReceived by the run.
    At(Mark),
    /// The exit code was here.
    Exit,
    /// The VM was gone.
    VmGone,
}

use Mark::{
    Agent, Cli, Created, Exec, Exited, Kernel, Loaded, LookedUp, Output, Prepared, Root, Running,
    Spawned, StartReceived, Supervisor, Userspace,
};
use Point::{At, Exit, Start, VmGone};

/// What each part is called, where it begins and where it ends.
const PARTS: [(&str, Point, Point); 17] = [
    ("command line starts", Start, At(Cli)),
    ("supervisor spawned", At(Cli), At(Spawned)),
    ("supervisor starts", At(Spawned), At(Supervisor)),
    ("VM created", At(Supervisor), At(Prepared)),
    ("node look-ups", At(Spawned), At(LookedUp)),
    ("supervisor is told", At(LookedUp), At(StartReceived)),
    ("kernel into memory", At(StartReceived), At(Loaded)),
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

/// One part of a boot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What it is called.
    pub name: &'static str,
    /// When it began, in milliseconds since before the process; the median.
    pub start_millis: f64,
    /// How long it took, in milliseconds.
    pub millis: Summary,
}

/// All parts that every iteration had, in order.
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

/// The totals of an iteration, and what follows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// From before the process to the agent's report.
    pub to_agent_millis: Summary,
    /// From before the process to the first byte of the command's output, where there was one.
    pub to_first_output_millis: Option<Summary>,
    /// From before the process to its exit code.
    pub to_exit_code_millis: Summary,
    /// From the exit code to the end of the VM's process, which the caller does not wait for.
    pub teardown_millis: Summary,
}

/// `None` when there were no iterations or some never reached the agent.
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
            // Clocks of host and guest are tied together up to microseconds: a part is never less
            // than nothing.
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
    use crate::timeline::TimelineEntry;

    fn iteration(marks: &[(Mark, u64)]) -> Iteration {
        Iteration {
            started: 1000,
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
    fn a_part_lies_between_its_points() {
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
    fn nothing_was_measured() {
        assert!(parts(&[]).is_empty());
        assert!(totals(&[]).is_none());
    }
}
