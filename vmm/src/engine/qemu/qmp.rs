//! The subset of the QEMU machine protocol that the engine uses: events, and human monitor commands
//! for diagnostics.
//!
//! One JSON document per line. QEMU sends events only after capabilities negotiation. It responds
//! to the negotiation from its main loop, when the machine is built and its CPUs run.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

/// The maximum length of a line, in bytes. Bounds the memory use; only the registers of many vCPUs
/// approach it.
const MAX_LINE: u64 = 1 << 20;

/// The reading side of a QMP connection.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

/// A line from QEMU.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The response to a command.
    Response(Response),
    /// The VM stops, and why (`ShutdownCause` of QMP).
    Shutdown(String),
    /// Anything else.
    Other,
    /// QEMU has closed the connection.
    End,
}

/// The response to a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The command's id, if it had one.
    id: Option<u64>,
    /// What it returned, or QEMU's description of the error.
    pub result: Result<Value, String>,
}

#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<ErrorBody>,
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct ErrorBody {
    desc: String,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

impl Monitor {
    /// Negotiates capabilities, after which QEMU sends events.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn new(mut stream: UnixStream) -> io::Result<Monitor> {
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        Ok(Monitor {
            lines: BufReader::new(stream),
        })
    }

    /// The connection, for timeouts and for [`Commands`].
    pub fn stream(&self) -> &UnixStream {
        self.lines.get_ref()
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// When the connection breaks or the read timeout expires.
    pub fn next(&mut self) -> io::Result<Message> {
        let mut line = Vec::new();
        match self
            .lines
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)?
        {
            0 => Ok(Message::End),
            _ => Ok(parse(&line)),
        }
    }
}

fn parse(line: &[u8]) -> Message {
    // Lines that cannot be parsed are irrelevant here.
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return Message::Other;
    };
    let response = |result| {
        Message::Response(Response {
            id: line.id,
            result,
        })
    };
    match (line.returned, line.error, line.event.as_deref()) {
        (Some(value), ..) => response(Ok(value)),
        (None, Some(error), _) => response(Err(error.desc)),
        (None, None, Some("SHUTDOWN")) => {
            Message::Shutdown(line.data.and_then(|data| data.reason).unwrap_or_default())
        }
        _ => Message::Other,
    }
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command could not be sent.
    #[error("cannot send the command")]
    Send(#[from] io::Error),
    /// QEMU did not respond before the deadline.
    #[error("QEMU did not respond in time")]
    Timeout,
    /// QEMU has closed the connection.
    #[error("QEMU closed the connection")]
    Closed,
    /// QEMU refused the command.
    #[error("{0}")]
    Refused(String),
}

/// Sends commands on a connection whose lines another thread reads.
#[derive(Debug)]
pub struct Commands {
    stream: UnixStream,
    responses: Receiver<Response>,
    last_id: u64,
}

impl Commands {
    /// Sends on `stream`; `responses` are those that its reader receives.
    pub fn new(stream: UnixStream, responses: Receiver<Response>) -> Commands {
        Commands {
            stream,
            responses,
            last_id: 0,
        }
    }

    /// Runs a command of QEMU's human monitor and returns what it prints.
    ///
    /// # Errors
    /// [`CommandError`]
    pub fn human(&mut self, command: &str, deadline: Instant) -> Result<String, CommandError> {
        self.last_id += 1;
        let mut line = json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": command},
            "id": self.last_id,
        })
        .to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.responses.recv_timeout(left) {
                Ok(response) if response.id == Some(self.last_id) => {
                    let value = response.result.map_err(CommandError::Refused)?;
                    return Ok(value.as_str().unwrap_or_default().to_owned());
                }
                // A late response to an earlier command.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(CommandError::Timeout),
                Err(RecvTimeoutError::Disconnected) => return Err(CommandError::Closed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn response(id: Option<u64>, result: Result<Value, String>) -> Message {
        Message::Response(Response { id, result })
    }

    #[test]
    fn the_lines_of_qemu_7_2_are_parsed() {
        let lines: [(&[u8], Message); 7] = [
            (br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#, Message::Other),
            (br#"{"return": {}}"#, response(None, Ok(json!({})))),
            (br#"{"return": "text\r\n", "id": 7}"#, response(Some(7), Ok("text\r\n".into()))),
            (br#"{"id": 7, "error": {"class": "GenericError", "desc": "no"}}"#, response(Some(7), Err("no".into()))),
            (br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#, Message::Shutdown("guest-reset".into())),
            (br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#, Message::Other),
            (b"\xff\n", Message::Other),
        ];
        for (line, message) in lines {
            assert_eq!(parse(line), message);
        }
    }

    #[test]
    fn a_command_returns_its_own_response_or_times_out() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, responses) = mpsc::channel();
        let mut commands = Commands::new(ours, responses);
        let past = Instant::now();
        let error = commands.human("info status", past).unwrap_err();
        assert!(matches!(error, CommandError::Timeout), "{error:?}");
        let mut line = String::new();
        BufReader::new(&theirs).read_line(&mut line).unwrap();
        let sent: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(sent["arguments"]["command-line"], "info status");

        for (id, text) in [(1, "late"), (2, "right")] {
            let result = Ok(text.into());
            sender
                .send(Response {
                    id: Some(id),
                    result,
                })
                .unwrap();
        }
        let soon = Instant::now() + Duration::from_secs(30);
        assert_eq!(commands.human("info status", soon).unwrap(), "right");
        drop(sender);
        let error = commands.human("info status", soon).unwrap_err();
        assert!(matches!(error, CommandError::Closed), "{error:?}");
    }
}
