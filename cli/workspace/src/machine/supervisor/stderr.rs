//! The end of a supervisor's standard error.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::ChildStderr;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How much is kept for error messages, in bytes.
const LIMIT: usize = 4 << 10;

/// Reads a pipe without waiting and keeps the end of the text.
#[derive(Debug)]
pub(super) struct StderrTail {
    /// `None` at its end, or if it was not captured.
    pipe: Option<ChildStderr>,
    tail: Vec<u8>,
}

impl StderrTail {
    /// An empty tail of `pipe`.
    pub(super) fn new(pipe: Option<ChildStderr>) -> StderrTail {
        // Cannot fail for an open descriptor; without it there is no last line, but also no hang.
        let pipe = pipe.filter(|pipe| {
            fcntl_getfl(pipe)
                .and_then(|flags| fcntl_setfl(pipe, flags | OFlags::NONBLOCK))
                .is_ok()
        });
        StderrTail {
            pipe,
            tail: Vec::new(),
        }
    }

    /// The descriptor to poll; `None` when nothing more can be read.
    pub(super) fn pipe(&self) -> Option<&impl AsFd> {
        self.pipe.as_ref()
    }

    /// Reads what has been written so far.
    pub(super) fn read(&mut self) {
        let mut chunk = [0; 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(length @ 1..) => {
                    self.tail.extend_from_slice(&chunk[..length]);
                    let excess = self.tail.len().saturating_sub(LIMIT);
                    self.tail.drain(..excess);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }

    /// The end of the text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.tail).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_end_of_the_text_is_kept() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "head -c 10000 /dev/zero | tr '\\0' x >&2; echo end >&2",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = StderrTail::new(child.stderr.take());
        child.wait().unwrap();
        stderr.read();
        assert!(stderr.pipe().is_none());
        assert_eq!(stderr.text(), "x".repeat(LIMIT - 4) + "end\n");
    }

    /// Another process may have inherited the pipe.
    #[test]
    fn a_pipe_that_stays_open_is_not_waited_for() {
        let mut child = Command::new("sh")
            .args(["-c", "echo text >&2; read line"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = StderrTail::new(child.stderr.take());
        while stderr.text() != "text\n" {
            stderr.read();
        }
        assert!(stderr.pipe().is_some());
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
