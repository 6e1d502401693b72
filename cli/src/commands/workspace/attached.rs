//! A command in a workspace with this process's terminal.

use std::io;
use std::thread;

use microagent_pipeline::ErrorKind;
use microagent_workspace::machine::session::{Control, Sink};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::failure::{EXIT_SIGNAL_BASE, Failure};
use crate::run::sink::CommandSink;
use crate::terminal::{self, Mode};
use crate::terminal_guard::Guard;
use crate::termination::Termination;

/// Signals that would end this process and leave the terminal as it is.
const FATAL: [i32; 4] = [SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2];

/// Passes the output of a command on to the terminal, which is in raw mode while it runs.
#[derive(Debug)]
pub struct TerminalSink {
    inner: CommandSink,
    termination: Termination,
    /// Why the terminal could not be prepared.
    pub failed: Option<io::Error>,
}

impl TerminalSink {
    /// Writes with `inner`.
    pub fn new(inner: CommandSink, termination: &Termination) -> TerminalSink {
        TerminalSink {
            inner,
            termination: termination.clone(),
            failed: None,
        }
    }

    fn prepare(&self, control: &Control) -> io::Result<()> {
        restore_on_panic(&self.termination);
        let mode = Mode::now()?;
        let watched = FATAL.into_iter().chain([SIGWINCH, SIGCONT]);
        let mut signals = Signals::new(watched)?;
        let guard = Guard::start();
        if let Err(error) = &guard {
            tracing::debug!(%error, "the terminal is not restored if this process is killed");
        }
        self.termination.set_raw_mode(mode, guard.ok())?;
        let (termination, control) = (self.termination.clone(), control.clone());
        // It may have changed since the request was made.
        let _ = control.resize(terminal::size());
        let watching = thread::Builder::new().name("terminal".into());
        watching.spawn(move || {
            for signal in signals.forever() {
                if FATAL.contains(&signal) {
                    let code = EXIT_SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0));
                    let failure = Failure::new(ErrorKind::Interrupted, "interrupted");
                    termination.terminate(code, &failure);
                }
                // Meanwhile a shell has used the terminal.
                if signal == SIGCONT {
                    termination.renew_raw_mode();
                }
                let _ = control.resize(terminal::size());
            }
        })?;
        Ok(())
    }
}

impl Sink for TerminalSink {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.stdout(bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.stderr(bytes)
    }

    fn started(&mut self, control: &Control) {
        self.inner.started(control);
        if let Err(error) = self.prepare(control) {
            self.failed = Some(error);
            control.hang_up();
        }
    }
}

impl Drop for TerminalSink {
    fn drop(&mut self) {
        self.termination.restore_terminal();
    }
}

/// Restores the terminal before a panic prints its message.
fn restore_on_panic(termination: &Termination) {
    let termination = termination.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        termination.restore_terminal();
        before(panic);
    }));
}
