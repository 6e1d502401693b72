//! What QEMU says about itself: the few words of QMP that are needed.
//!
//! One JSON document a line. Events come only after the capabilities were negotiated, and the
//! answer to that comes from the main loop, when the machine is built and its CPUs run.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde::Deserialize;

/// The longest line that is read, in bytes. QEMU's are short; the limit bounds our memory.
const MAX_LINE: u64 = 64 << 10;

/// A monitor connection.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

/// What a line may be, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The answer to the one command we send.
    Running,
    /// The VM stops, and why (`ShutdownCause` of QMP).
    Shutdown(String),
    /// Anything else.
    Other,
    /// QEMU has closed the connection.
    End,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "return")]
    answer: Option<serde_json::Value>,
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

impl Monitor {
    /// Asks for events on this connection.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn new(mut stream: UnixStream) -> io::Result<Monitor> {
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        Ok(Monitor {
            lines: BufReader::new(stream),
        })
    }

    /// The connection, for timeouts.
    pub fn stream(&self) -> &UnixStream {
        self.lines.get_ref()
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// When the connection breaks or its read timeout is over.
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
    // A line that is not understood is a line that does not matter.
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return Message::Other;
    };
    match (line.answer, line.event.as_deref()) {
        (Some(_), _) => Message::Running,
        (_, Some("SHUTDOWN")) => {
            Message::Shutdown(line.data.and_then(|data| data.reason).unwrap_or_default())
        }
        _ => Message::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_qemu_7_2_are_understood() {
        let lines: [(&[u8], Message); 5] = [
            (br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#, Message::Other),
            (br#"{"return": {}}"#, Message::Running),
            (br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#, Message::Shutdown("guest-reset".into())),
            (br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#, Message::Other),
            (b"\xff\n", Message::Other),
        ];
        for (line, message) in lines {
            assert_eq!(parse(line), message);
        }
    }
}
