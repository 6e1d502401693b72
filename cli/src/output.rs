//! Standard output and standard error. Results go to stdout, everything else to stderr. With
//! `--json`, stdout holds one document, and each line of stderr is one: events, then the error, if
//! there is one.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;
use rustix::fs::fstat;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::failure::{ErrorDocument, Failure};
use crate::printable;

/// Output options.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// Print JSON instead of text.
    pub json: bool,
    /// Print no notices and no progress.
    pub quiet: bool,
    /// Number of `-v` flags.
    pub verbose: u8,
    /// Use colors on stderr.
    pub color: bool,
}

impl Output {
    /// The options from the global flags and `$NO_COLOR`.
    pub fn from_args(args: &GlobalArgs) -> Output {
        // no-color.org: any value except the empty one.
        let disabled = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            color: !args.no_color && !disabled && io::stderr().is_terminal(),
        }
    }

    /// Whether the output of setup commands is shown.
    pub fn shows_setup_output(&self) -> bool {
        !self.quiet && (!self.json || self.verbose > 0)
    }

    /// Whether standard output and standard error are the same file, pipe or terminal, so that the
    /// order of a guest command's output in both must be kept. `--json` keeps them apart.
    pub fn streams_are_one(&self) -> bool {
        !self.json && are_one_file(&io::stdout(), &io::stderr())
    }

    /// Prints a one-line notice on stderr, unless `--quiet`.
    pub fn notice(&self, line: &str) {
        match self {
            Output { quiet: true, .. } => {}
            Output { json: true, .. } => print_event(&notice_event(line)),
            _ => {
                let line = printable::line(line);
                let _ = writeln!(io::stderr(), "microagent: {line}");
            }
        }
    }

    /// Prints the result as text.
    ///
    /// # Errors
    /// When stdout cannot be written. A closed pipe is not an error.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(printable::lines(text).as_bytes())
    }

    /// Prints what a guest wrote, as it is.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(stdout_error(&error)),
            _ => Ok(()),
        }
    }

    /// Prints what a guest wrote, as it is, and tells whether somebody still reads: for output that
    /// does not end by itself.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn stream(&self, bytes: &[u8]) -> Result<bool, Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(stdout_error(&error)),
        }
    }

    /// Prints one of several JSON documents, on one line, and tells whether somebody still reads.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn line(&self, document: &impl Serialize) -> Result<bool, Failure> {
        let mut text = serde_json::to_vec(document)
            .map_err(|error| Failure::caused(ErrorKind::Internal, &error))?;
        text.push(b'\n');
        self.stream(&text)
    }

    /// Prints the result as a JSON document.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::caused(ErrorKind::Internal, &error))?;
        self.text(&format!("{text}\n"))
    }

    /// Prints the failure of the command on stderr.
    pub fn failure(&self, failure: &Failure) {
        #[derive(Serialize)]
        struct Document {
            error: ErrorDocument,
        }
        let mut text = if self.json {
            let error = ErrorDocument::new(failure);
            let document = Document { error };
            serde_json::to_string(&document).unwrap_or_else(|error| error_chain(&error))
        } else {
            let (bold, plain) = if self.color {
                ("\x1b[1;31m", "\x1b[0m")
            } else {
                ("", "")
            };
            let message = printable::lines(&failure.message);
            let mut text = format!("{bold}microagent:{plain} {message}");
            if let Some(remediation) = &failure.remediation {
                text.push_str("\n  ");
                text.push_str(&printable::lines(remediation));
            }
            text
        };
        text.push('\n');
        // One write, so that other processes' lines are not interleaved.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Prints one event as a line of JSON on stderr. One write, so that other threads' lines are not
/// interleaved.
pub fn print_event(event: &Value) {
    let line = format!("{}\n", json!({ "event": event }));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The event of a notice.
pub fn notice_event(message: &str) -> Value {
    json!({ "kind": "notice", "message": message })
}

/// The failure of a write to standard output.
pub fn stdout_error(error: &io::Error) -> Failure {
    Failure::new(
        ErrorKind::Host,
        format!("cannot write to standard output: {error}"),
    )
}

/// Whether both descriptors refer to one file, pipe or terminal.
fn are_one_file(one: &impl AsFd, other: &impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_one_file_or_pipe_are_recognised() {
        let (reader, writer) = io::pipe().unwrap();
        let (_, other) = io::pipe().unwrap();
        assert!(are_one_file(&writer, &writer.try_clone().unwrap()));
        assert!(!are_one_file(&writer, &other));
        drop(reader);
        let directory = tempfile::tempdir().unwrap();
        let create = |name: &str| std::fs::File::create(directory.path().join(name)).unwrap();
        let (a, again, b) = (create("a"), create("a"), create("b"));
        assert!(are_one_file(&a, &again));
        assert!(!are_one_file(&a, &b));
        assert!(!are_one_file(&a, &writer));
    }
}
