//! Tests that are worth repeating for longer than a suite allows.
//!
//! `make test` runs a short form of each. `make soak` sets `$MICROAGENT_SOAK_SECONDS`, and each of
//! them goes on for about that long.

use std::time::{Duration, Instant};

/// The variable that gives each of these tests its duration, in seconds.
pub const SECONDS: &str = "MICROAGENT_SOAK_SECONDS";

/// How long a test is to go on; `None` in the suite.
///
/// # Panics
/// When [`SECONDS`] is not a number.
pub fn duration() -> Option<Duration> {
    let text = std::env::var(SECONDS).ok()?;
    let seconds = text
        .parse()
        .unwrap_or_else(|_| panic!("{SECONDS}={text} is not a number"));
    Some(Duration::from_secs(seconds))
}

/// Numbers the rounds of a test: `in_suite` of them, in a soak as many as begin in its duration,
/// and no fewer.
pub fn rounds(in_suite: u64) -> impl Iterator<Item = u64> {
    let end = duration().map(|duration| Instant::now() + duration);
    (0..).take_while(move |&round| round < in_suite || end.is_some_and(|end| Instant::now() < end))
}

/// The size of a test that takes about `seconds_each` for each of its parts: `in_suite` parts, in a
/// soak as many as its duration holds, and no fewer.
pub fn size(in_suite: u32, seconds_each: f64) -> u32 {
    let fits = duration().map(|duration| duration.as_secs_f64() / seconds_each);
    // Saturates.
    fits.map_or(in_suite, |parts| in_suite.max(parts as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The variable is of the whole process, and `make soak` runs no unit tests.
    #[test]
    fn the_suite_has_as_many_rounds_as_it_is_told() {
        assert_eq!(duration(), None);
        assert_eq!(rounds(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(size(20, 6.0), 20);
    }
}
