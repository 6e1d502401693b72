//! Retries and their delays.
//!
//! Responses 429 and 5xx and interrupted connections are retried; other responses are
//! not. Delays double with each attempt and have jitter, so that many clients of one
//! registry do not retry in step. `Retry-After` (RFC 9110, section 10.2.3) overrides
//! the delay; if it exceeds [`LONGEST_PAUSE`], the request is not retried.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::Response;

/// Maximum number of attempts.
pub(super) const ATTEMPTS: u32 = 4;
/// Maximum number of attempts at a mirror, after which another server is tried.
pub(super) const ATTEMPTS_AT_A_MIRROR: u32 = 2;
/// The delay before the second attempt; it doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The maximum delay.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether the request may succeed if it is retried.
pub(super) fn is_transient(response: &Response<Body>) -> bool {
    response.status() == 429 || response.status().is_server_error()
}

/// The delay after this response to attempt number `attempt`; `None` if the server
/// asks for more than [`LONGEST_PAUSE`].
pub(super) fn pause_after(response: &Response<Body>, attempt: u32) -> Option<Duration> {
    match retry_after(response) {
        Some(wait) if wait > LONGEST_PAUSE => None,
        Some(wait) => Some(wait),
        None => Some(pause(attempt)),
    }
}

/// The delay in the response's `Retry-After`.
pub(super) fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get("Retry-After")?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// Parses seconds or a date; a date in the past means no delay.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The delay after `failures` failed attempts, from 1: random between half of the
/// nominal delay and all of it.
pub(super) fn pause(failures: u32) -> Duration {
    let whole = FIRST_PAUSE
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(LONGEST_PAUSE);
    let half = whole / 2;
    // Each RandomState has a new seed, which is random enough for jitter.
    let random = RandomState::new().build_hasher().finish();
    let range = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_millis(random % range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_any_http_date() {
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
    fn delays_double_up_to_the_maximum_and_vary() {
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
