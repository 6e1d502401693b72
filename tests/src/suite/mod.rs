//! The runner of the test suite: runs cargo's test programs in parallel and reports times.
//!
//! `cargo test` runs one test program after the other. Most tests here wait for a VM, a registry or
//! a build, so `make test` runs several programs at once. A program with independent modules is
//! divided into one [`Unit`] per module; a unit is one process, because its tests may share a lab
//! or a VM.
//!
//! ```text
//! cargo test --no-run --message-format json | suite
//!     program.rs   the programs that cargo has built
//!     unit.rs      the units and their order
//!     process.rs   runs one unit and times its tests
//!     summary.rs   the slowest tests and the count
//! ```

mod process;
mod program;
mod summary;
mod unit;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub use process::{Count, Finished, Outcome, Test};
pub use program::Program;
pub use summary::Summary;
pub use unit::{Unit, units};

use crate::Error;

/// The running units.
#[derive(Debug, Default)]
struct Load {
    /// Processors in use: one for each lab, and one for each unit without labs.
    processors: usize,
    /// How many of them are used by labs.
    labs: usize,
}

impl Load {
    /// Whether `unit` can start now. A lab uses its processor all the time and has one to itself,
    /// so that the time limits of its steps hold. Without labs, one more unit than there are
    /// processors runs, because many tests wait. A unit that needs more processors than there are
    /// runs alone.
    fn admits(&self, unit: &Unit, processors: usize) -> bool {
        let has_labs = self.labs + unit.labs() > 0;
        let limit = if has_labs { processors } else { processors + 1 };
        self.processors == 0 || self.processors + unit.processors() <= limit
    }

    fn start(&mut self, unit: &Unit) {
        self.processors += unit.processors();
        self.labs += unit.labs();
    }

    fn end(&mut self, unit: &Unit) {
        self.processors -= unit.processors();
        self.labs -= unit.labs();
    }
}

/// The time limit of a unit. The longest takes half of it on two processors.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs `units` on this many processors, in order as far as [`Load::admits`] permits, and calls
/// `done` with each finished one. A unit that runs for half an hour, or at `deadline`, is stopped
/// and counts as failed, so that the report names the test that hung.
///
/// # Errors
/// If a unit cannot be started. A failed unit is not an error.
pub fn run(
    mut units: Vec<Unit>,
    processors: usize,
    deadline: Option<Instant>,
    mut done: impl FnMut(&Unit, Finished),
) -> Result<(), Error> {
    let mut load = Load::default();
    let (sender, finished) = mpsc::channel();
    thread::scope(|scope| {
        loop {
            while let Some(next) = units.iter().position(|unit| load.admits(unit, processors)) {
                let unit = units.remove(next);
                load.start(&unit);
                let sender = sender.clone();
                let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
                let limit = left.unwrap_or(LIMIT).min(LIMIT);
                scope.spawn(move || {
                    let result = process::run(&unit, limit);
                    // The receiver is gone after an error.
                    let _ = sender.send((unit, result));
                });
            }
            if load.processors == 0 {
                return Ok(());
            }
            let (unit, result) = finished.recv().expect("a sender is kept");
            load.end(&unit);
            done(&unit, result?);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Unit {
        let program = Program {
            name: name.into(),
            target: "t".into(),
            executable: "/t".into(),
            directory: "/w".into(),
        };
        Unit {
            program,
            module: None,
            tests: vec!["a".into()],
        }
    }

    #[test]
    fn a_lab_has_a_processor_for_itself() {
        let (two_labs, one_lab, none) =
            (unit("tests e2e run_lab"), unit("vmm vm net"), unit("cas"));
        let mut load = Load::default();
        load.start(&one_lab);
        assert!(load.admits(&none, 2) && load.admits(&one_lab, 2) && !load.admits(&two_labs, 2));
        load.start(&none);
        assert!(!load.admits(&none, 2) && !load.admits(&one_lab, 2));
        load.end(&one_lab);
        load.start(&none);
        assert!(load.admits(&none, 2) && !load.admits(&one_lab, 2));
        let nothing = Load::default();
        assert!(nothing.admits(&two_labs, 1));
    }
}
