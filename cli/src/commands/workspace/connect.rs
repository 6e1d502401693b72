//! `microagent connect`.

use std::io::{self, Cursor, Read};

use microagent_proto::agent::Output as CommandOutput;
use microagent_workspace::follow::Follower;
use microagent_workspace::machine::session::{End, Piece, Source};
use microagent_workspace::spec::DEFAULT_SHELL;

use super::exec::check_terminal;
use super::logs::follow;
use super::target::{How, Target};
use super::{client, get};
use crate::args::ConnectArgs;
use crate::failure::{EXIT_NOT_FOUND, EXIT_SIGPIPE, Failure};
use crate::request::{Variables, exec_size, resources};
use crate::run::vm::output_of;
use crate::settings::Settings;
use crate::terminal;
use crate::termination::Termination;

/// How many lines of the console are printed first.
const CONSOLE_LINES: usize = 10;

/// Ctrl-P, then Ctrl-Q: leaves the shell, as with docker.
const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Ctrl-]: does the same, as with telnet.
const CTRL_BRACKET: u8 = 0x1d;

/// Opens the workspace's shell on this terminal, or lets it execute one line; returns its exit code.
pub fn connect(
    args: ConnectArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let name = &args.name;
    let timeout = (args.timeout.as_deref()).map(resources::timeout);
    let timeout = timeout.transpose()?;
    if args.console {
        return console(name, settings);
    }
    if args.send.is_none() {
        check_terminal(
            settings,
            |failure| failure.remediation("use --send LINE with it"),
            |failure| failure.remediation("in a script, use --send LINE"),
        )?;
    }
    let target = Target::find(name, settings)?;
    let shell = (target.spec.shell.clone()).unwrap_or_else(|| DEFAULT_SHELL.to_owned());
    let no_variables = Variables::default();
    let mut request = target.request(vec![shell.clone()], &no_variables)?;
    let source: Box<dyn Source> = match args.send {
        Some(line) => {
            request.output = output_of(settings.output);
            Box::new(Line::new(line))
        }
        None => {
            request.output = CommandOutput::Terminal(terminal::size());
            target.name_terminal(&mut request, &no_variables);
            Box::new(Keyboard::default())
        }
    };
    exec_size::check(&request, &[])?;
    let mut ended = target
        .run(request, Some(source), timeout, termination)
        .map_err(|failure| no_shell(failure, &shell))?;
    if settings.output.json {
        super::exec::print(&mut ended, name, settings)?;
    }
    if let How::Session(End::Detached { .. }) = ended.how {
        // The prompt of the guest's shell may be on this line.
        let notice = format!("left {name}; its shell and what runs in it go on");
        settings.output.notice(&notice);
    }
    ended.exit_code()
}

/// Prints the last lines of the guest's console, then what it prints until the workspace has ended.
fn console(name: &str, settings: &Settings) -> Result<u8, Failure> {
    if settings.output.json {
        return Err(
            Failure::usage("--json conflicts with --console").remediation(format!(
                "use microagent --json logs --follow --console {name}"
            )),
        );
    }
    let directory = get(settings, name)?;
    // It must run.
    client(&directory, name)?;
    let mut follower = Follower::new(&directory, &directory.console());
    let before = follower.present()?;
    let notice = "the console can only be read; Ctrl-C leaves it";
    settings.output.notice(notice);
    let print = |bytes: &[u8]| settings.output.stream(bytes);
    match print(last_lines(&before, CONSOLE_LINES))? {
        true => follow(follower, false, print),
        false => Ok(EXIT_SIGPIPE),
    }
}

/// The end of `text` with at most `count` lines.
fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let whole = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let start = ends.map(|(index, _)| index + 1).nth_back(count - 1);
    &text[start.unwrap_or(0)..]
}

/// The failure of a shell that the image does not have says how to get another one.
fn no_shell(failure: Failure, shell: &str) -> Failure {
    match failure.exit {
        Some(EXIT_NOT_FOUND) => failure.remediation(format!(
            "install {shell} with --setup, or create the workspace with another --shell"
        )),
        _ => failure,
    }
}

/// One line for the shell, with its end.
struct Line(Cursor<Vec<u8>>);

impl Line {
    fn new(line: String) -> Line {
        Line(Cursor::new((line + "\n").into_bytes()))
    }
}

impl Source for Line {
    fn next(&mut self, buffer: &mut [u8]) -> Piece {
        match self.0.read(buffer) {
            Ok(length @ 1..) => Piece::Bytes(length),
            _ => Piece::End,
        }
    }
}

/// The keys of this terminal, in which those that leave the shell are recognised.
#[derive(Debug, Default)]
struct Keyboard {
    /// Ctrl-P was pressed, and is not passed on before the next key.
    held: bool,
}

impl Keyboard {
    /// Writes what `typed` means for the shell to the start of `passed`, which is one byte longer.
    /// Returns its length and whether the user leaves.
    fn filter(&mut self, typed: &[u8], passed: &mut [u8]) -> (usize, bool) {
        let mut length = 0;
        let mut pass = |byte| {
            passed[length] = byte;
            length += 1;
        };
        for &byte in typed {
            let held = std::mem::take(&mut self.held);
            if byte == CTRL_BRACKET || (held && byte == CTRL_Q) {
                if held && byte == CTRL_BRACKET {
                    pass(CTRL_P);
                }
                return (length, true);
            }
            if held {
                pass(CTRL_P);
            }
            match byte {
                CTRL_P => self.held = true,
                byte => pass(byte),
            }
        }
        (length, false)
    }
}

impl Source for Keyboard {
    fn next(&mut self, buffer: &mut [u8]) -> Piece {
        let mut typed = vec![0; (buffer.len() - 1).min(4 << 10)];
        let length = loop {
            match io::stdin().lock().read(&mut typed) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The terminal is gone.
                Ok(0) | Err(_) => return Piece::End,
                Ok(length) => break length,
            }
        };
        match self.filter(&typed[..length], buffer) {
            (length, true) => Piece::Detach(length),
            (length, false) => Piece::Bytes(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filtered(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keyboard = Keyboard::default();
        let mut all = Vec::new();
        for piece in pieces {
            let mut passed = vec![0; piece.len() + 1];
            let (length, leaves) = keyboard.filter(piece, &mut passed);
            all.extend(&passed[..length]);
            if leaves {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn two_sequences_leave_the_shell_and_other_keys_are_passed_on() {
        for (pieces, passed, leaves) in [
            (&[&b"ls\r"[..]][..], &b"ls\r"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"a\x1db"], b"a", true),
            (&[b"\x10\x1d"], b"\x10", true),
            (&[b"\x10x"], b"\x10x", false),
            (&[b"\x10", b"\x10", b"\x10"], b"\x10\x10", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11"], b"\x11", false),
        ] {
            assert_eq!(filtered(pieces), (passed.to_vec(), leaves), "{pieces:?}");
        }
    }

    #[test]
    fn the_last_lines_are_whole_or_the_unfinished_one() {
        for (text, count, last) in [
            ("", 2, ""),
            ("a", 2, "a"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 2, "a\nb\n"),
            ("\n\n\n", 1, "\n"),
        ] {
            assert_eq!(
                last_lines(text.as_bytes(), count),
                last.as_bytes(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_line_of_any_length_is_sent_once_with_its_end() {
        for length in [0, 1, 6, 7, 8, 9, 15, 16, 17] {
            let line = "x".repeat(length);
            let mut source = Line::new(line.clone());
            let (mut sent, mut buffer) = (Vec::new(), [0; 8]);
            loop {
                match source.next(&mut buffer) {
                    Piece::Bytes(length) => sent.extend(&buffer[..length]),
                    Piece::End => break,
                    Piece::Detach(_) => panic!("it leaves"),
                }
            }
            assert_eq!(String::from_utf8(sent).unwrap(), line + "\n");
        }
    }

    proptest! {
        #[test]
        fn keys_mean_the_same_in_pieces_of_any_size(
            typed in proptest::collection::vec(
                prop_oneof![Just(CTRL_P), Just(CTRL_Q), any::<u8>()], 0..40),
            cut in 1usize..5,
        ) {
            let pieces: Vec<&[u8]> = typed.chunks(cut).collect();
            prop_assert_eq!(filtered(&pieces), filtered(&[&typed]));
        }
    }
}
