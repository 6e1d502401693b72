//! The duration of soak tests.
//!
//! `make test` runs a short form of each. `make soak` sets `$MICROAGENT_SOAK_SECONDS`, the
//! approximate duration of each test, and may set `$MICROAGENT_SOAK_ROUNDS`, which counts instead for
//! `chaos`.

use std::time::{Duration, Instant};

/// The variable with the duration in seconds.
pub const SECONDS: &str = "MICROAGENT_SOAK_SECONDS";

/// The variable with the number of rounds.
pub const ROUNDS: &str = "MICROAGENT_SOAK_ROUNDS";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|it| !it.is_empty())?;
    let parsed = text.parse();
    Some(parsed.unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The duration of a soak test; `None` in the suite.
///
/// # Panics
/// If [`SECONDS`] is not a number.
pub fn duration() -> Option<Duration> {
    number(SECONDS).map(Duration::from_secs)
}

/// The number of rounds of a soak test whatever its duration, if it is given.
///
/// # Panics
/// If [`ROUNDS`] is not a number.
pub fn given_rounds() -> Option<u64> {
    number(ROUNDS)
}

/// The numbers of a test's rounds: `in_suite` rounds in the suite; in a soak, as many as start within
/// its duration, but at least `in_suite`.
pub fn rounds(in_suite: u64) -> impl Iterator<Item = u64> {
    let end = duration().map(|duration| Instant::now() + duration);
    (0..).take_while(move |&round| round < in_suite || end.is_some_and(|end| Instant::now() < end))
}

/// The number of parts of a test, each of which takes about `seconds_each`: `in_suite` in the suite;
/// in a soak, as many as fit into its duration, but at least `in_suite`.
pub fn size(in_suite: u32, seconds_each: f64) -> u32 {
    let fits = duration().map(|duration| duration.as_secs_f64() / seconds_each);
    // The cast saturates.
    fits.map_or(in_suite, |parts| in_suite.max(parts as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The variable is not set: `make soak` runs no unit tests.
    #[test]
    fn the_suite_has_the_given_number_of_rounds() {
        assert_eq!((duration(), given_rounds()), (None, None));
        assert_eq!(rounds(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(size(20, 6.0), 20);
    }
}
