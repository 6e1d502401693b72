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

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

pub use process::{Finished, Outcome, Test};
pub use program::Program;
pub use summary::Summary;
pub use unit::{Unit, units};

use crate::Error;

/// Runs `units` in their order, `lanes` at once, and calls `done` with each one that has finished.
///
/// # Errors
/// When a unit cannot be started. A unit that fails is not an error.
pub fn run(
    units: Vec<Unit>,
    lanes: usize,
    mut done: impl FnMut(&Unit, Finished),
) -> Result<(), Error> {
    let waiting = Mutex::new(VecDeque::from(units));
    let (sender, finished) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..lanes {
            let (waiting, sender) = (&waiting, sender.clone());
            scope.spawn(move || {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(unit) = next else { return };
                    let result = process::run(&unit);
                    if sender.send((unit, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (unit, result) in finished {
            done(&unit, result?);
        }
        Ok(())
    })
}
