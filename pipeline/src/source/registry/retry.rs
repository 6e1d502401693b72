//! When a request is made again, and how long after.
//!
//! Answers 429 and 5xx and broken connections are worth another attempt, no
//! other answer is. Pauses double, with jitter, so that many clients of one
//! registry do not come back in step; a `Retry-After` (RFC 9110, section
//! 10.2.3) takes their place. One that asks for more than [`LONGEST_PAUSE`]
//! ends the attempts: coming earlier would only be refused again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::Response;

/// How often a request is made at most.
pub(super) const ATTEMPTS: u32 = 4;
/// The same where another server has the image as well.
pub(super) const ATTEMPTS_AT_A_MIRROR: u32 = 2;
/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether the same request may be answered otherwise in a moment.
pub(super) fn is_transient(response: &Response<Body>) -> bool {
    response.status() == 429 || response.status().is_server_error()
}

/// The pause before a request that was answered like this is made again after
/// `attempt` attempts; `None` if the server asks for a longer one than anybody
/// would wait.
pub(super) fn pause_after(response: &Response<Body>, attempt: u32) -> Option<Duration> {
    match retry_after(response) {
        Some(wait) if wait > LONGEST_PAUSE => None,
        Some(wait) => Some(wait),
        None => Some(pause(attempt)),
    }
}

/// What the server asks for with `Retry-After`.
pub(super) fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get("Retry-After")?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// Seconds, or a date; one that is over means at once.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The pause after `failures` failed attempts, counted from 1: between a half
/// of the whole and the whole of it.
pub(super) fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(LONGEST_PAUSE);
    let half = whole / 2;
    // Each RandomState is seeded anew, which is as much chance as jitter needs.
    let chance = RandomState::new().build_hasher().finish();
    let range = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_millis(chance % range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_as_each_form_of_date() {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let now = date - Duration::from_secs(7);
        let read = |value| parse_retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 0 "), Some(0));
        // RFC 9110, section 5.6.7.
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7));
        assert_eq!(read("Sunday, 06-Nov-94 08:49:37 GMT"), Some(7));
        assert_eq!(read("Sun Nov  6 08:49:37 1994"), Some(7));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        for (failures, whole) in [
            (1, 250),
            (2, 500),
            (3, 1000),
            (30, 30_000),
            (u32::MAX, 30_000),
        ] {
            let whole = Duration::from_millis(whole);
            let pauses: Vec<_> = (0..50).map(|_| pause(failures)).collect();
            let within = |pause: &Duration| *pause >= whole / 2 && *pause <= whole;
            assert!(pauses.iter().all(within), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
