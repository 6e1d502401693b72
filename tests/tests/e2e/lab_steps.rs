//! Steps that share one lab, of which the whole output is known.

use crate::run_list;
use microagent_tests::Error;
use microagent_tests::lab::{Lab, Report};

/// A step: its name, its script, its time limit in seconds, and its standard output.
pub type Step = (&'static str, &'static str, u32, &'static str);

/// Boots a lab with the image of `run_list`, after `equip` has added to it, and executes the steps in order, each
/// script behind `settings`.
pub fn boot(
    settings: &str,
    steps: &[Step],
    equip: impl FnOnce(&mut Lab) -> Result<(), Error>,
) -> Result<Report, Error> {
    let layout = run_list::layout(&[])?;
    let mut lab = run_list::lab(&layout)?;
    equip(&mut lab)?;
    for (name, script, seconds, _) in steps {
        lab.step(name, &format!("{settings}{script}"), *seconds);
    }
    lab.boot()
}

/// # Panics
/// With all steps whose output is another one.
pub fn check(report: &Report, steps: &[Step]) {
    let mut wrong = Vec::new();
    for (name, _, _, expected) in steps {
        let step = report.step(name);
        if step.text() != *expected {
            wrong.push(format!(
                "{name}: {:?}, took {:?}\n{}",
                step.text(),
                step.elapsed,
                step.errors()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
