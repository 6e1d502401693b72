//! The protocol on the lab's second serial port.
//!
//! A line `LAB` when it is up; for each step, in order, a line
//! `STEP <exit status> <uptime before> <uptime after> <bytes of stdout> <bytes of stderr>` with
//! uptimes in seconds with a fraction, followed by exactly so many bytes; a line `END`.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use super::{OUTPUT_LIMIT, Step, StepReport};

/// The longest line, in bytes.
const LINE_LIMIT: u64 = 256;

/// Reads the whole conversation.
pub(crate) fn read(input: &mut impl BufRead, steps: &[Step]) -> io::Result<Vec<StepReport>> {
    if line(input)? != "LAB" {
        return Err(invalid("it does not begin with LAB"));
    }
    let mut reports = Vec::with_capacity(steps.len());
    for step in steps {
        let header = line(input)?;
        let fields: Vec<&str> = header.split(' ').collect();
        let &["STEP", code, before, after, stdout, stderr] = fields.as_slice() else {
            return Err(invalid(&format!("{header:?} is not the header of a step")));
        };
        let seconds = |text: &str| text.parse::<f64>().map_err(|_| invalid(text));
        let elapsed = (seconds(after)? - seconds(before)?).max(0.0);
        reports.push(StepReport {
            name: step.name.clone(),
            code: code.parse().map_err(|_| invalid(code))?,
            stdout: bytes(input, stdout)?,
            stderr: bytes(input, stderr)?,
            elapsed: Duration::try_from_secs_f64(elapsed).map_err(|_| invalid(after))?,
        });
    }
    match line(input)?.as_str() {
        "END" => Ok(reports),
        other => Err(invalid(&format!("{other:?} instead of END"))),
    }
}

fn line(input: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    input.take(LINE_LIMIT).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(bytes).map_err(|_| invalid("a line is not text"))
}

fn bytes(input: &mut impl BufRead, count: &str) -> io::Result<Vec<u8>> {
    let count: usize = count.parse().map_err(|_| invalid(count))?;
    if count > OUTPUT_LIMIT {
        return Err(invalid("more output than agreed"));
    }
    let mut bytes = vec![0; count];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        vec![Step {
            name: "a".into(),
            script: String::new(),
            seconds: 1,
        }]
    }

    #[test]
    fn a_step_keeps_its_bytes_apart() {
        let mut input = &b"LAB\nSTEP 3 1.50 2.25 4 2\n\0\n\xffSxyEND\n"[..];
        let reports = read(&mut input, &steps()).unwrap();
        assert_eq!(reports[0].code, 3);
        assert_eq!(reports[0].stdout, b"\0\n\xffS");
        assert_eq!(reports[0].stderr, b"xy");
        assert_eq!(reports[0].elapsed, Duration::from_millis(750));
    }

    #[test]
    fn an_early_end_is_an_error() {
        let mut input = &b"LAB\nSTEP 3 1.50 2.25 4 2\nab"[..];
        let error = read(&mut input, &steps()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_size_beyond_the_limit_is_an_error() {
        let mut input = &b"LAB\nSTEP 3 1.50 2.25 65537 2\n"[..];
        let error = read(&mut input, &steps()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
