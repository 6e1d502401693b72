//! The output of guest commands: passed through, captured for a document, or for setup commands
//! sent to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::SystemTime;

use microagent_workspace::machine::session::{Control, Sink};
use microagent_workspace::machine::timeline::{Mark, Timeline, monotonic_micros};
use rustix::event::{PollFd, PollFlags, poll};

use crate::output::Output;

/// The maximum captured size of each stream, in bytes; the rest is dropped.
pub const CAPTURE_LIMIT: usize = 16 << 20;

/// How much of a setup command's output is kept for its error message, in bytes.
const TAIL: usize = 4 << 10;

/// The output of the command: passed through, or captured with `--json`.
#[derive(Debug)]
pub struct CommandSink {
    target: Target,
    /// When the command was started.
    pub started_at: Option<SystemTime>,
    started_micros: Option<u64>,
    output_micros: Option<u64>,
}

#[derive(Debug)]
enum Target {
    /// Unbuffered: bytes appear as the guest writes them.
    PassThrough {
        stdout: File,
        stderr: File,
    },
    Captured(Captured),
}

/// Captured output.
#[derive(Debug, Default)]
pub struct Captured {
    /// The start of standard output.
    pub stdout: Vec<u8>,
    /// The start of standard error.
    pub stderr: Vec<u8>,
    /// Some output was dropped.
    pub truncated: bool,
}

impl CommandSink {
    /// Captures with `--json`, otherwise passes through.
    pub fn new(output: Output) -> io::Result<CommandSink> {
        let target = if output.json {
            Target::Captured(Captured::default())
        } else {
            Target::PassThrough {
                stdout: File::from(io::stdout().as_fd().try_clone_to_owned()?),
                stderr: File::from(io::stderr().as_fd().try_clone_to_owned()?),
            }
        };
        Ok(CommandSink {
            target,
            started_at: None,
            started_micros: None,
            output_micros: None,
        })
    }

    /// Records when the command was started and when its first output arrived.
    pub fn record_into(&self, timeline: &mut Timeline) {
        for (mark, micros) in [
            (Mark::Exec, self.started_micros),
            (Mark::Output, self.output_micros),
        ] {
            if let Some(micros) = micros {
                timeline.record(mark, micros);
            }
        }
    }

    fn note_output(&mut self) {
        self.output_micros.get_or_insert_with(monotonic_micros);
    }

    /// The captured output; empty if it was passed through.
    pub fn into_captured(self) -> Captured {
        match self.target {
            Target::Captured(captured) => captured,
            Target::PassThrough { .. } => Captured::default(),
        }
    }
}

impl Sink for CommandSink {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.note_output();
        match &mut self.target {
            Target::PassThrough { stdout, .. } => write_through(stdout, bytes),
            Target::Captured(captured) => {
                captured.truncated |= append(&mut captured.stdout, bytes);
                Ok(())
            }
        }
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.note_output();
        match &mut self.target {
            Target::PassThrough { stderr, .. } => {
                // A closed standard error does not stop the command.
                let _ = write_through(stderr, bytes);
                Ok(())
            }
            Target::Captured(captured) => {
                captured.truncated |= append(&mut captured.stderr, bytes);
                Ok(())
            }
        }
    }

    fn started(&mut self, _: &Control) {
        self.started_at = Some(SystemTime::now());
        self.started_micros = Some(monotonic_micros());
    }
}

/// Writes all of `bytes`, even if another process that shares the file made it non-blocking.
fn write_through(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(file, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends up to [`CAPTURE_LIMIT`] bytes in total; returns whether bytes were dropped.
fn append(kept: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let fits = bytes.len().min(CAPTURE_LIMIT - kept.len());
    kept.extend_from_slice(&bytes[..fits]);
    fits < bytes.len()
}

/// The output of a setup command: both streams go to standard error, so that standard output holds
/// only the result; the end is kept for the error message.
#[derive(Debug)]
pub struct SetupSink {
    output: Output,
    tail: Vec<u8>,
}

impl SetupSink {
    /// Shows the output if `output` allows it.
    pub fn new(output: Output) -> SetupSink {
        SetupSink {
            output,
            tail: Vec::new(),
        }
    }

    /// The last line, if the output was not shown.
    pub fn last_hidden_line(&self) -> Option<String> {
        if self.output.shows_setup_output() {
            return None;
        }
        let text = String::from_utf8_lossy(&self.tail);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(line.trim().to_owned())
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.output.shows_setup_output() {
            let _ = io::stderr().write_all(bytes);
        }
        self.tail.extend_from_slice(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }
}

impl Sink for SetupSink {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes);
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_non_blocking_pipe_receives_all_bytes() {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            io::Read::read_to_end(&mut { reader }, &mut all).map(|_| all)
        });
        let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
        write_through(&mut writer, &sent).unwrap();
        drop(writer);
        assert!(reading.join().unwrap().unwrap() == sent);
    }

    #[test]
    fn a_capture_keeps_the_start_and_reports_truncation() {
        let json = Output {
            json: true,
            ..Output::default()
        };
        let mut sink = CommandSink::new(json).unwrap();
        sink.stdout(&vec![b'a'; CAPTURE_LIMIT - 1]).unwrap();
        sink.stdout(b"b").unwrap();
        sink.stderr(b"e").unwrap();
        let Target::Captured(captured) = &sink.target else {
            panic!("not captured");
        };
        assert!(!captured.truncated);
        sink.stdout(b"c").unwrap();
        let captured = sink.into_captured();
        assert!(captured.truncated);
        assert_eq!(captured.stdout.len(), CAPTURE_LIMIT);
        assert!(captured.stdout.ends_with(b"ab"));
        assert_eq!(captured.stderr, b"e");
    }
}
