//! Signals by name or number, as images write them.

use std::str::FromStr;

use nix::libc::{SIGRTMAX, SIGRTMIN};
use nix::sys::signal::Signal;

/// The signal that asks a workload to end, if its image names none.
pub const SIGTERM: i32 = Signal::SIGTERM as i32;

/// The number of the signal `text`: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, in upper or lower case.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, sign: char, base: i32, factor: i32| {
        let offset = match rest.strip_prefix(sign) {
            Some(digits) => digits.parse::<i32>().ok()?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        let number = base.checked_add(factor.checked_mul(offset)?)?;
        (SIGRTMIN()..=SIGRTMAX())
            .contains(&number)
            .then_some(number)
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(rest, '+', SIGRTMIN(), 1);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(rest, '-', SIGRTMAX(), -1);
    }
    let name = format!("SIG{name}");
    Signal::from_str(&name).ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_as_docker_takes_them() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGQUIT", Some(3)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-14", Some(50)),
            ("RTMIN-1", None),
            ("RTMIN+99", None),
            ("0", None),
            ("65", None),
            ("SIGNOTHING", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
