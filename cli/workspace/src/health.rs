//! Health checks of a running workspace, as its specification says.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use microagent_proto::agent::{AGENT_PORT, Place};
use microagent_proto::error_chain;
use microagent_proto::frame::FrameError;

use crate::client::Client;
use crate::machine::probe::{self, ProbeError, within};
use crate::machine::session::SessionError;
use crate::spec::{Check, Health, Recorded, Spec};
use crate::start::exec;

/// The longest status line of an HTTP server, in bytes.
const MAX_STATUS_LINE: usize = 4 << 10;

/// Why a check failed: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unhealthy(pub String);

/// How a workspace whose specification says nothing is checked: its agent must answer. A guest that is
/// slow on a busy host is not one that hangs, so this allows two minutes.
pub static AGENT: Health = Health {
    exec: Vec::new(),
    http_get: None,
    port: None,
    interval_seconds: 20,
    timeout_seconds: 20,
    retries: 3,
    start_period_seconds: 0,
};

/// Whether the agent of the workspace that `client` talks to answers within `limit`.
///
/// # Errors
/// [`Unhealthy`].
pub fn ping(client: &Client, limit: Duration) -> Result<(), Unhealthy> {
    let failed = |error: &dyn std::error::Error| {
        Unhealthy(format!("the agent does not answer: {}", error_chain(error)))
    };
    let stream = client.probe(AGENT_PORT).map_err(|error| failed(&error))?;
    probe::ping(stream, limit).map_err(|error| failed(&error))
}

/// Performs one check of the workspace that `client` talks to.
///
/// # Errors
/// [`Unhealthy`], also if the guest cannot be asked.
pub fn check(
    client: &Client,
    spec: &Spec,
    recorded: &Recorded,
    check: Check<'_>,
    limit: Duration,
) -> Result<(), Unhealthy> {
    let failed = |error: &dyn std::error::Error| Unhealthy(error_chain(error));
    let begun = Instant::now();
    let stream = client.probe(AGENT_PORT).map_err(|error| failed(&error))?;
    match check {
        Check::Exec(argv) => {
            let request = exec(spec, recorded, argv.to_vec(), Place::Beside);
            let (exited, output) =
                probe::run(stream, request, limit).map_err(|error| failed(&error))?;
            let how = match (exited.code, exited.signal) {
                (Some(0), _) => return Ok(()),
                (Some(code), _) => format!("exit code {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            };
            let text = String::from_utf8_lossy(&output).into_owned();
            match text.lines().rfind(|line| !line.trim().is_empty()) {
                Some(line) => Err(Unhealthy(format!("{how}: {}", line.trim()))),
                None => Err(Unhealthy(how)),
            }
        }
        Check::HttpGet { path, port } => {
            let stream = probe::dial(stream, port, limit).map_err(|error| failed(&error))?;
            let left = limit.saturating_sub(begun.elapsed());
            let status = within(left, &stream, || {
                http_status(&stream, path, port)
                    .map_err(|error| SessionError::Broken(FrameError::Io(error)))
            });
            match status {
                Ok(200..=399) => Ok(()),
                Ok(status) => Err(Unhealthy(format!("HTTP status {status}"))),
                Err(error @ ProbeError::Timeout(_)) => Err(failed(&error)),
                Err(_) => Err(Unhealthy("not an HTTP response".to_owned())),
            }
        }
    }
}

/// Sends a request and returns the status of the response.
fn http_status(mut stream: impl Read + Write, path: &str, port: u16) -> io::Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: microagent\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        match stream.read(&mut chunk)? {
            0 => break,
            length => line.extend(&chunk[..length]),
        }
    }
    status_of(&line).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The status in a status line (RFC 9112, section 4).
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    let status = words.next()?.trim_end();
    (status.len() == 3).then(|| status.parse().ok()).flatten()
}

/// Counts checks: when the workload is unhealthy.
#[derive(Debug)]
pub struct Counter {
    retries: u32,
    failures: u32,
    /// Failures before it do not count.
    counts_from: Instant,
}

impl Counter {
    /// For a workspace that was started at `started`.
    pub fn new(health: &Health, started: Instant) -> Counter {
        let period = Duration::from_secs(health.start_period_seconds.into());
        Counter {
            retries: health.retries.max(1),
            failures: 0,
            counts_from: started + period,
        }
    }

    /// Counts a check that ended at `now`; whether the workload is unhealthy.
    pub fn count(&mut self, healthy: bool, now: Instant) -> bool {
        match healthy {
            true => {
                self.failures = 0;
                // The start is over.
                self.counts_from = now;
            }
            false if now < self.counts_from => {}
            false => self.failures += 1,
        }
        self.failures >= self.retries
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_status_line_is_read_and_anything_else_is_not() {
        for (line, status) in [
            (&b"HTTP/1.1 200 OK\r\nServer: x\r\n"[..], Some(200)),
            (b"HTTP/1.0 404 Not Found\r\n", Some(404)),
            (b"HTTP/1.1 503\r\n", Some(503)),
            (b"HTTP/1.1 20 OK\r\n", None),
            (b"HTTP/1.1 2000 OK\r\n", None),
            (b"SSH-2.0-OpenSSH\r\n", None),
            (b"\xff\xfe", None),
            (b"", None),
        ] {
            assert_eq!(status_of(line), status, "{line:?}");
        }
    }

    #[test]
    fn a_server_that_sends_without_a_line_end_is_bounded() {
        struct Flood(Cursor<Vec<u8>>);
        impl Read for Flood {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b'x');
                Ok(buffer.len())
            }
        }
        impl Write for Flood {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut flood = Flood(Cursor::default());
        assert!(http_status(&mut flood, "/healthz", 8080).is_err());
        let sent = String::from_utf8(flood.0.into_inner()).unwrap();
        assert!(sent.starts_with("GET /healthz HTTP/1.1\r\nHost: localhost:8080\r\n"));
        assert!(sent.ends_with("\r\n\r\n"));
    }

    #[test]
    fn failures_in_a_row_after_the_start_period_are_unhealthy() {
        let health = |start_period_seconds| Health {
            exec: vec!["true".into()],
            http_get: None,
            port: None,
            interval_seconds: 1,
            timeout_seconds: 1,
            retries: 3,
            start_period_seconds,
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counter = Counter::new(&health(0), start);
        let counts = [false, false, true, false, false, false].map(|healthy| (healthy, 1));
        let unhealthy: Vec<_> = counts
            .iter()
            .map(|&(healthy, second)| counter.count(healthy, at(second)))
            .collect();
        assert_eq!(unhealthy, [false, false, false, false, false, true]);
        let mut counter = Counter::new(&health(10), start);
        for second in 1..10 {
            assert!(!counter.count(false, at(second)));
        }
        assert!(!counter.count(false, at(10)));
        assert!(!counter.count(false, at(11)));
        assert!(counter.count(false, at(12)));
        // A success ends the start.
        let mut counter = Counter::new(&health(100), start);
        assert!(!counter.count(true, at(1)));
        assert!(!counter.count(false, at(2)));
        assert!(!counter.count(false, at(3)));
        assert!(counter.count(false, at(4)));
    }
}
