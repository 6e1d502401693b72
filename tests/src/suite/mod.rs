//! The runner of the test suite: cargo's test programs side by side, with times.
//!
//! `cargo test` runs one test program after the other. Most tests here wait for a VM, a registry or
//! a build, many of them on one processor, so `make test` runs several programs at once. A program
//! whose modules are independent of each other is divided into one [`Unit`] per module; a unit is
//! one process, because its tests may share a lab or a VM.
//!
//! ```text
//! cargo test --no-run --message-format json | suite
//!     program.rs   which programs cargo has built
//!     unit.rs      which tests are in them, what runs in one process, in which order
//!     process.rs   one unit: its tests one after the other, each timed
//!     summary.rs   the slowest tests, the count
//! ```

mod process;
mod program;
mod summary;
mod unit;

use std::sync::mpsc;
use std::thread;

pub use process::{Count, Finished, Outcome, Test};
pub use program::Program;
pub use summary::Summary;
pub use unit::{Unit, units};

use crate::Error;

/// What runs at the moment.
#[derive(Debug, Default)]
struct Load {
    /// Processors that are taken: one by each lab, and one by a unit without any.
    processors: usize,
    /// How many of them by labs.
    labs: usize,
}

impl Load {
    /// Whether `unit` can start now. A lab has a processor for itself, because QEMU's emulation of
    /// nested virtualisation loses interrupts when it is preempted often (docs/testing.md). Beside
    /// no lab one unit more than processors runs, because many tests wait. A unit that needs more
    /// than there is runs alone.
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

/// Runs `units` on so many processors, in their order as far as [`Load::admits`] them, and calls
/// `done` with each one that has finished.
///
/// # Errors
/// When a unit cannot be started. A unit that fails is not an error.
pub fn run(
    mut units: Vec<Unit>,
    processors: usize,
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
                scope.spawn(move || {
                    let result = process::run(&unit);
                    // Nobody listens after an error.
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
