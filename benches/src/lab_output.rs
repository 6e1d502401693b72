//! What a step of a lab has printed.

use microagent_tests::lab::Report;
use serde::de::DeserializeOwned;

use crate::Error;

/// The JSON that `step` printed. `what` is measured by `command`, for errors.
///
/// # Errors
/// When the step failed, or printed something else.
pub(crate) fn json<T: DeserializeOwned>(
    report: &Report,
    step: &str,
    what: &'static str,
    command: &str,
) -> Result<T, Error> {
    let step = report.step(step);
    if step.code != 0 {
        return Err(Error::Invalid {
            what,
            why: step.errors(),
        });
    }
    serde_json::from_slice(&step.stdout).map_err(|source| Error::Parse {
        what: format!("the output of {command}"),
        source,
    })
}
