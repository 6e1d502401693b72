//! What people and scripts see. Results go to stdout; all else to stderr. With `--json`, stdout
//! holds one document, and each line of stderr is one: events ([`crate::progress`]), at last the
//! error, if there is one.

use std::io::{self, IsTerminal, Write};

use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::GlobalArgs;
use crate::failure::Failure;

/// The forms of output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// No notices and no progress.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Colours are welcome.
    pub color: bool,
}

impl Output {
    /// The forms that were asked for.
    pub fn from_args(args: &GlobalArgs) -> Output {
        // no-color.org: any value but the empty one.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Output {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            color: !args.no_color && !unwanted && io::stderr().is_terminal(),
        }
    }

    /// Whether text beside the result is wanted.
    pub fn shows_diagnostics(&self) -> bool {
        !self.quiet && (!self.json || self.verbose > 0)
    }

    /// Says one line beside the result.
    pub fn notice(&self, line: &str) {
        match self {
            Output { quiet: true, .. } => {}
            Output { json: true, .. } => print_event(&notice_event(line)),
            _ => {
                let _ = writeln!(io::stderr(), "microagent: {line}");
            }
        }
    }

    /// Prints the result as text.
    ///
    /// # Errors
    /// When stdout cannot be written, other than by nobody reading it.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(stdout_error(&error)),
            _ => Ok(()),
        }
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

    /// Says why the command failed.
    pub fn failure(&self, failure: &Failure) {
        #[derive(Serialize)]
        struct Document<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            kind: &'a str,
            message: &'a str,
            remediation: Option<&'a str>,
            retryable: bool,
        }
        let mut text = if self.json {
            let document = Document {
                error: Error {
                    kind: failure.kind.as_str(),
                    message: &failure.message,
                    remediation: failure.remediation.as_deref(),
                    retryable: failure.retryable,
                },
            };
            serde_json::to_string(&document).unwrap_or_else(|error| error_chain(&error))
        } else {
            let (bold, plain) = if self.color {
                ("\x1b[1;31m", "\x1b[0m")
            } else {
                ("", "")
            };
            let mut text = format!("{bold}microagent:{plain} {}", failure.message);
            if let Some(remediation) = &failure.remediation {
                text.push_str("\n  ");
                text.push_str(remediation);
            }
            text
        };
        text.push('\n');
        // One write, so that lines of other processes do not come between.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Prints one event as a line of JSON on standard error. One write, so that lines of other threads
/// do not come between.
pub fn print_event(event: &Value) {
    let line = format!("{}\n", json!({ "event": event }));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The event of a notice.
pub fn notice_event(message: &str) -> Value {
    json!({ "kind": "notice", "message": message })
}

/// The failure to print a result.
pub fn stdout_error(error: &io::Error) -> Failure {
    Failure::new(
        ErrorKind::Host,
        format!("cannot write to standard output: {error}"),
    )
}
