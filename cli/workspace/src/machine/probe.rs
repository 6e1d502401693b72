//! Short questions to the agent of a guest, each with a time limit: a guest that hangs, or answers
//! without end, keeps nobody waiting.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use microagent_proto::agent::{Exec, Exited, Reply, Request};
use microagent_proto::frame::write_opening;

use super::session::{self, SessionError, Sink, first_reply, unexpected_reply};

/// How much of a command's output is kept, in bytes: the end.
const KEPT: usize = 1 << 10;

/// A question was not answered as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The guest did not answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The agent refused, or the stream broke.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A system call failed.
    #[error("cannot watch the time limit")]
    Io(#[from] io::Error),
}

/// Whether the agent runs commands.
///
/// # Errors
/// [`ProbeError`].
pub fn ping(mut stream: UnixStream, limit: Duration) -> Result<(), ProbeError> {
    within(limit, &stream.try_clone()?, || {
        ask(&mut stream, &Request::Ping, "the reply to a ping").and_then(|reply| match reply {
            Reply::Pong => Ok(()),
            other => Err(unexpected(other)),
        })
    })
}

/// Connects `stream`, a new session with the agent, to the server on `port` of the guest's loopback
/// interface.
///
/// # Errors
/// [`ProbeError`].
pub fn dial(mut stream: UnixStream, port: u16, limit: Duration) -> Result<UnixStream, ProbeError> {
    within(limit, &stream.try_clone()?, || {
        let request = Request::Dial { port };
        ask(&mut stream, &request, "the reply to a dial request").and_then(|reply| match reply {
            Reply::Dialed => Ok(()),
            other => Err(unexpected(other)),
        })
    })?;
    Ok(stream)
}

/// Runs a command, which is killed after `limit`. Returns how it ended, and the end of its output.
///
/// # Errors
/// [`ProbeError`].
pub fn run(
    stream: UnixStream,
    request: Exec,
    limit: Duration,
) -> Result<(Exited, Vec<u8>), ProbeError> {
    let mut tail = Tail::default();
    let exited = within(limit, &stream.try_clone()?, || {
        session::exec(stream, request, &mut tail)
    })?;
    Ok((exited, tail.0))
}

/// Calls `work`, which uses `stream`, and shuts the stream down after `limit`.
///
/// # Errors
/// [`ProbeError::Timeout`], and those of `work`.
pub fn within<T>(
    limit: Duration,
    stream: &UnixStream,
    work: impl FnOnce() -> Result<T, SessionError>,
) -> Result<T, ProbeError> {
    let watched = stream.try_clone()?;
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = thread::Builder::new()
        .name("deadline".into())
        .spawn(move || {
            let late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = watched.shutdown(Shutdown::Both);
            }
            late
        })?;
    let result = work();
    drop(done);
    match (result, watchdog.join()) {
        (Err(_), Ok(true)) => Err(ProbeError::Timeout(limit)),
        (result, _) => Ok(result?),
    }
}

fn ask(
    stream: &mut UnixStream,
    request: &Request,
    what: &'static str,
) -> Result<Reply, SessionError> {
    write_opening(stream, request)?;
    Ok(first_reply(stream, what)?)
}

fn unexpected(reply: Reply) -> SessionError {
    match reply {
        Reply::Failed(failure) => SessionError::Refused(failure),
        _ => unexpected_reply(),
    }
}

/// Keeps the end of a command's output.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn keep(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let excess = self.0.len().saturating_sub(KEPT);
        self.0.drain(..excess);
    }
}

impl Sink for Tail {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keep(bytes);
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keep(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_not_answer_is_not_waited_for() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = ping(ours, Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "no answer within 0.05 s");
    }

    #[test]
    fn a_guest_that_is_gone_is_a_broken_session() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = dial(ours, 80, Duration::from_secs(60)).unwrap_err();
        assert!(matches!(error, ProbeError::Session(_)), "{error}");
    }

    #[test]
    fn the_end_of_the_output_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..10 {
            tail.keep(&[b'a'; KEPT - 1]);
            tail.keep(b"end");
        }
        assert!(tail.0.len() == KEPT && tail.0.ends_with(b"aend"));
    }
}
