//! Times as Go's `time.Parse(time.RFC3339, …)` accepts them.

/// Whether `text` is a valid time: `2006-01-02T15:04:05Z`, with a fraction or an offset. Like Go,
/// an hour of one digit and a comma before the fraction are accepted, and the offset's range is not
/// checked.
pub(super) fn is_valid(text: &str) -> bool {
    parse(text.as_bytes()).is_some()
}

fn parse(text: &[u8]) -> Option<()> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(expect(rest, b"-")?, 2)?;
    let (day, rest) = number(expect(rest, b"-")?, 2)?;
    let rest = expect(rest, b"T")?;
    let (hour, rest) = number(rest, 2).or_else(|| number(rest, 1))?;
    let (minute, rest) = number(expect(rest, b":")?, 2)?;
    let (second, rest) = number(expect(rest, b":")?, 2)?;
    let is_date = (1..=12).contains(&month) && (1..=days(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let zone = match rest {
        [b'.' | b',', fraction @ ..] if fraction.first().is_some_and(u8::is_ascii_digit) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
            &fraction[digits.count()..]
        }
        rest => rest,
    };
    if zone == b"Z" {
        return Some(());
    }
    let offset = expect(zone, b"+").or_else(|| expect(zone, b"-"))?;
    let (_, rest) = number(offset, 2)?;
    let (_, rest) = number(expect(rest, b":")?, 2)?;
    rest.is_empty().then_some(())
}

fn expect<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(prefix)
}

/// A number of exactly `digits` digits.
fn number(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.iter().all(u8::is_ascii_digit);
    let value = number.iter().fold(0, |value, digit| {
        value * 10 + u32::from(digit.wrapping_sub(b'0'))
    });
    is_number.then_some((value, rest))
}

fn days(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
