//! The host side of guest agent sessions.
//!
//! A session's stream carries one request. Output is written in order before the next frame is
//! read, so a slow reader slows down only the guest. What the host sends meanwhile, through a
//! [`Control`], does not wait for that reader.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use microagent_proto::agent::{
    Configure, Exec, Exited, Failure, FailureKind, Input, Output, Reply, Request, STDIN_WINDOW,
    WindowSize,
};
use microagent_proto::envelope::{Mismatch, Program};
use microagent_proto::frame::{
    DATA_CHUNK, Frame, FrameError, Kind, read_frame, read_opening, write_frame, write_opening,
};

/// A session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The agent could not carry out the request.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The agent uses another version of the protocol.
    #[error(transparent)]
    Version(Mismatch),
    /// The stream failed, or the agent violated the protocol.
    #[error("the session with the guest agent failed")]
    Broken(#[source] FrameError),
    /// The agent does not answer in time.
    #[error("the guest agent does not answer")]
    TimedOut,
    /// The command's output could not be written.
    #[error("cannot write the command's output")]
    Output(#[source] io::Error),
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> SessionError {
        match error {
            FrameError::Version(mismatch) => SessionError::Version(mismatch),
            FrameError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                SessionError::TimedOut
            }
            error => SessionError::Broken(error),
        }
    }
}

/// Receives a command's output.
pub trait Sink {
    /// Writes bytes of its standard output.
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Writes bytes of its standard error.
    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The command has been started; `control` sends it signals.
    fn started(&mut self, control: &Control) {
        let _ = control;
    }
}

/// Gives a VM that has come up its identity and disks. With `limit`, the guest must answer within that
/// time.
///
/// # Errors
/// [`SessionError`].
pub fn configure(
    mut stream: UnixStream,
    request: Configure,
    limit: Option<Duration>,
) -> Result<(), SessionError> {
    stream.set_read_timeout(limit).map_err(FrameError::Io)?;
    let wanted = request.trust.certificates.len();
    write_opening(&mut stream, &Request::Configure(request))?;
    match first_reply(&mut stream, "the reply to a configuration request")? {
        // It has ignored a field that it does not know.
        Reply::Configured { certificates, .. } if certificates != wanted => {
            Err(SessionError::Refused(Failure {
                kind: FailureKind::System,
                message: "the agent of this workspace is too old for CA certificates: create the \
                          workspace again"
                    .to_owned(),
            }))
        }
        Reply::Configured { mount_micros, .. } => {
            tracing::debug!(mount_micros, "configured");
            Ok(())
        }
        Reply::Failed(failure) => Err(SessionError::Refused(failure)),
        _ => Err(unexpected_reply()),
    }
}

/// The source of a command's standard input.
pub trait Source: Send {
    /// Waits for the next piece, which is written to the start of `buffer`.
    fn next(&mut self, buffer: &mut [u8]) -> Piece;
}

/// A piece of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes, possibly none.
    Bytes(usize),
    /// The end of the input.
    End,
    /// The user leaves the command, after this many bytes.
    Detach(usize),
}

/// This process's standard input.
#[derive(Debug)]
pub struct Stdin;

impl Source for Stdin {
    fn next(&mut self, buffer: &mut [u8]) -> Piece {
        loop {
            return match io::stdin().lock().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // An unreadable standard input counts as ended.
                Ok(0) | Err(_) => Piece::End,
                Ok(length) => Piece::Bytes(length),
            };
        }
    }
}

/// What the host sends to a command, from any thread.
#[derive(Debug, Clone)]
pub struct Control(Arc<Mutex<UnixStream>>);

impl Control {
    /// For the session on `stream`.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(stream: &UnixStream) -> io::Result<Control> {
        Ok(Control(Arc::new(Mutex::new(stream.try_clone()?))))
    }

    /// Sends a signal to the command's process.
    ///
    /// # Errors
    /// The stream failed, or the command has ended.
    pub fn signal(&self, number: i32) -> Result<(), SessionError> {
        self.input(Input::Signal(number))
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// As [`Control::signal`].
    pub fn signal_group(&self, number: i32) -> Result<(), SessionError> {
        self.input(Input::SignalGroup(number))
    }

    /// Kills the command and everything that it started.
    ///
    /// # Errors
    /// As [`Control::signal`].
    pub fn kill(&self) -> Result<(), SessionError> {
        self.input(Input::Kill)
    }

    /// Gives the command's terminal another size.
    ///
    /// # Errors
    /// As [`Control::signal`].
    pub fn resize(&self, size: WindowSize) -> Result<(), SessionError> {
        self.input(Input::Resize(size))
    }

    /// Ends the session: the guest kills a command that was not left.
    pub fn hang_up(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn input(&self, input: Input) -> Result<(), SessionError> {
        let message = serde_json::to_vec(&input).map_err(FrameError::from)?;
        Ok(self.frame(Kind::Message, &message)?)
    }

    fn frame(&self, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write_frame(&mut *stream, kind, payload)
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The command ended.
    Exited(Exited),
    /// The command lives on.
    Detached {
        /// Its process id, as other commands in the guest see it, if it was started with
        /// [`Output::Discard`] and has not been reaped yet.
        pid: Option<u32>,
    },
}

/// Runs one command to its end. With `request.stdin`, forwards this process's standard input.
///
/// # Errors
/// [`SessionError`].
pub fn exec(
    stream: UnixStream,
    request: Exec,
    sink: &mut dyn Sink,
) -> Result<Exited, SessionError> {
    let source = request.stdin.then(|| Box::new(Stdin) as Box<dyn Source>);
    match attach(stream, request, source, sink)? {
        End::Exited(exited) => Ok(exited),
        End::Detached { .. } => Err(unexpected_reply()),
    }
}

/// Runs one command until it ends or is left. `source` is its standard input.
///
/// # Errors
/// [`SessionError`].
pub fn attach(
    mut stream: UnixStream,
    mut request: Exec,
    source: Option<Box<dyn Source>>,
    sink: &mut dyn Sink,
) -> Result<End, SessionError> {
    request.stdin = source.is_some();
    let discards = request.output == Output::Discard;
    write_opening(&mut stream, &Request::Exec(request))?;
    match first_reply(&mut stream, "the start of the command")? {
        Reply::Started { inner_pid, .. } if discards => {
            return Ok(End::Detached { pid: inner_pid });
        }
        Reply::Started { .. } => {}
        Reply::Failed(failure) => return Err(SessionError::Refused(failure)),
        _ => return Err(unexpected_reply()),
    }
    let control = Control::new(&stream).map_err(FrameError::Io)?;
    sink.started(&control);
    let window = Arc::new(StdinWindow::new());
    if let Some(source) = source {
        let window = Arc::clone(&window);
        // The thread ends with this process or with the session.
        thread::Builder::new()
            .name("stdin".into())
            .spawn(move || forward_input(source, &control, &window))
            .map_err(FrameError::Io)?;
    }
    let end = forward_output(&mut stream, &window, sink);
    window.close();
    let _ = stream.shutdown(Shutdown::Both);
    end
}

/// Goes on with the workload whose session was lost, to its end.
///
/// # Errors
/// [`SessionError`].
pub fn take_over(mut stream: UnixStream, sink: &mut dyn Sink) -> Result<Exited, SessionError> {
    write_opening(&mut stream, &Request::Attach)?;
    match first_reply(&mut stream, "the session of the workload")? {
        Reply::Attached => {}
        Reply::Failed(failure) => return Err(SessionError::Refused(failure)),
        _ => return Err(unexpected_reply()),
    }
    sink.started(&Control::new(&stream).map_err(FrameError::Io)?);
    match forward_output(&mut stream, &StdinWindow::new(), sink)? {
        End::Exited(exited) => Ok(exited),
        End::Detached { .. } => Err(unexpected_reply()),
    }
}

/// Asks the guest to power off; returns when the agent has accepted.
pub fn shut_down(mut stream: UnixStream) -> Result<(), SessionError> {
    write_opening(&mut stream, &Request::Shutdown)?;
    match first_reply(&mut stream, "the reply to a shutdown request")? {
        Reply::ShuttingDown => Ok(()),
        Reply::Failed(failure) => Err(SessionError::Refused(failure)),
        _ => Err(unexpected_reply()),
    }
}

/// The first reply to a request.
pub(super) fn first_reply(
    stream: &mut UnixStream,
    what: &'static str,
) -> Result<Reply, FrameError> {
    read_opening(stream, Program::CommandLine, Program::Agent, what)
}

/// How much standard input the agent accepts at the moment.
struct StdinWindow {
    /// In bytes; `None` after the end of the session.
    free: Mutex<Option<usize>>,
    changed: Condvar,
}

impl StdinWindow {
    fn new() -> StdinWindow {
        StdinWindow {
            free: Mutex::new(Some(STDIN_WINDOW)),
            changed: Condvar::new(),
        }
    }

    /// Waits until `length` bytes may be sent, at most [`STDIN_WINDOW`]. Returns false at the end
    /// of the session.
    fn take(&self, length: usize) -> bool {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *free {
                None => return false,
                Some(bytes) if bytes >= length => {
                    *free = Some(bytes - length);
                    return true;
                }
                Some(_) => {
                    free = self
                        .changed
                        .wait(free)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The agent has reported that many bytes as consumed.
    fn open(&self, bytes: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = free.map(|free| free.saturating_add(bytes).min(STDIN_WINDOW));
        self.changed.notify_all();
    }

    fn close(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }
}

fn forward_output(
    stream: &mut UnixStream,
    window: &StdinWindow,
    sink: &mut dyn Sink,
) -> Result<End, SessionError> {
    loop {
        let Frame { kind, payload } =
            read_frame(stream)?.ok_or(FrameError::Closed("the end of the command"))?;
        match kind {
            Kind::Stdout => sink.stdout(&payload).map_err(SessionError::Output)?,
            Kind::Stderr => sink.stderr(&payload).map_err(SessionError::Output)?,
            Kind::Message => match serde_json::from_slice(&payload).map_err(FrameError::from)? {
                Reply::Exited(exited) => return Ok(End::Exited(exited)),
                Reply::Detached => return Ok(End::Detached { pid: None }),
                Reply::StdinConsumed { bytes } => window.open(bytes),
                Reply::Failed(failure) => return Err(SessionError::Refused(failure)),
                _ => return Err(unexpected_reply()),
            },
            Kind::Stdin => return Err(unexpected_reply()),
        }
    }
}

/// Copies `source` to the session until either ends.
fn forward_input(mut source: Box<dyn Source>, control: &Control, window: &StdinWindow) {
    let mut chunk = vec![0; DATA_CHUNK];
    loop {
        let piece = source.next(&mut chunk);
        let length = match piece {
            Piece::Bytes(length) | Piece::Detach(length) => length,
            Piece::End => 0,
        };
        // An empty frame signals the end.
        if length > 0 || piece == Piece::End {
            let sent = window.take(length) && control.frame(Kind::Stdin, &chunk[..length]).is_ok();
            if !sent || piece == Piece::End {
                return;
            }
        }
        if let Piece::Detach(_) = piece {
            let _ = control.input(Input::Detach);
            return;
        }
    }
}

/// A reply that is not one to the request.
pub(super) fn unexpected_reply() -> SessionError {
    SessionError::Broken(FrameError::Unexpected {
        got: Kind::Message,
        expected: "a reply to the request",
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use microagent_proto::agent::Place;
    use microagent_proto::envelope::envelope;
    use microagent_proto::{OLDEST, VERSION};

    use super::*;

    #[derive(Default)]
    struct Kept(Vec<u8>, Vec<u8>);

    impl Sink for Kept {
        fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.1.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn request() -> Exec {
        Exec {
            argv: vec!["x".into()],
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            stdin: false,
            output: Output::Separate,
            place: Place::Workload,
            keep: false,
        }
    }

    /// The result of a session whose agent sends these frames and closes the stream.
    fn session(frames: &[(Kind, &[u8])]) -> (Result<Exited, SessionError>, Kept) {
        session_after(&envelope(VERSION), frames)
    }

    /// The same, if the agent sends `opening` first.
    fn session_after(
        opening: &[u8],
        frames: &[(Kind, &[u8])],
    ) -> (Result<Exited, SessionError>, Kept) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(opening).unwrap();
        for (kind, payload) in frames {
            write_frame(&mut theirs, *kind, payload).unwrap();
        }
        theirs.shutdown(Shutdown::Write).unwrap();
        let mut kept = Kept::default();
        (exec(ours, request(), &mut kept), kept)
    }

    const STARTED: (Kind, &[u8]) = (Kind::Message, br#"{"started":{"pid":7,"innerPid":null}}"#);

    #[test]
    fn stdout_and_stderr_are_separate_and_the_exit_is_returned() {
        let (end, kept) = session(&[
            STARTED,
            (Kind::Stdout, b"a"),
            (Kind::Stderr, b"b"),
            (Kind::Stdout, b"c"),
            (
                Kind::Message,
                br#"{"exited":{"code":3,"signal":null,"outOfMemory":false}}"#,
            ),
        ]);
        let expected = Exited {
            code: Some(3),
            signal: None,
            out_of_memory: false,
        };
        assert_eq!(end.unwrap(), expected);
        assert_eq!(
            (kept.0.as_slice(), kept.1.as_slice()),
            (&b"ac"[..], &b"b"[..])
        );
    }

    #[test]
    fn a_refused_request_returns_the_agents_failure() {
        let failed = br#"{"failed":{"kind":"notFound","message":"no x"}}"#;
        let (end, _) = session(&[(Kind::Message, failed)]);
        let Err(SessionError::Refused(failure)) = end else {
            panic!("{end:?}");
        };
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert_eq!(failure.message, "no x");
    }

    #[test]
    fn a_stream_without_an_exit_reply_is_a_broken_session() {
        for frames in [
            &[][..],
            &[STARTED],
            &[STARTED, (Kind::Stdout, b"a")],
            &[STARTED, STARTED],
            &[STARTED, (Kind::Stdin, b"a")],
            &[STARTED, (Kind::Message, b"{")],
        ] {
            let (end, _) = session(frames);
            assert!(matches!(end, Err(SessionError::Broken(_))), "{end:?}");
        }
    }

    #[test]
    fn an_agent_of_a_version_that_is_too_old_is_named() {
        for (opening, version) in [
            (&envelope(OLDEST - 1)[..], format!("version {}", OLDEST - 1)),
            (b"", "version 3 or older".into()),
        ] {
            let (end, _) = session_after(opening, &[STARTED]);
            assert_eq!(
                end.unwrap_err().to_string(),
                format!(
                    "protocol mismatch: microagent uses version {VERSION}, \
                     microagent-guest {version}"
                )
            );
        }
    }

    #[test]
    fn standard_input_waits_for_the_agent() {
        let window = Arc::new(StdinWindow::new());
        assert!(window.take(STDIN_WINDOW));
        let waiting = {
            let window = Arc::clone(&window);
            thread::spawn(move || [window.take(2), window.take(1)])
        };
        window.open(1);
        window.open(1);
        window.close();
        let [first, second] = waiting.join().unwrap();
        assert!(!second);
        // Closed before or after the thread took its first part.
        let _ = first;
    }
}
