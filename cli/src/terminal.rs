//! The terminal on standard input: its mode and its size.

use std::io;

use microagent_proto::agent::WindowSize;
use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    isatty(stdin())
}

/// The size of the terminal; zeros if it is not known.
pub fn size() -> WindowSize {
    match tcgetwinsize(stdin()) {
        Ok(size) => WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        Err(_) => WindowSize::default(),
    }
}

/// The mode that the terminal had.
#[derive(Debug, Clone)]
pub struct Mode(Termios);

impl Mode {
    /// The present mode.
    ///
    /// # Errors
    /// When standard input is not a terminal.
    pub fn now() -> io::Result<Mode> {
        Ok(Mode(tcgetattr(stdin())?))
    }

    /// Passes on every key as it is: nothing is echoed, and no key is a signal.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn set_raw(&self) -> io::Result<()> {
        let mut raw = self.0.clone();
        raw.make_raw();
        // Not after the pending output, whose reader may have stopped (Ctrl-S).
        Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }

    /// Restores this mode, if the terminal still is in the raw mode that was made of it: then nobody
    /// else has set one, as shells do.
    pub fn restore_from_raw(&self) {
        let mut raw = self.0.clone();
        raw.make_raw();
        let modes = |it: &Termios| {
            (
                it.input_modes,
                it.output_modes,
                it.control_modes,
                it.local_modes,
            )
        };
        if tcgetattr(stdin()).is_ok_and(|now| modes(&now) == modes(&raw)) {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
        }
    }

    /// Restores this mode. A process in the background would be stopped by it, and the shell in the
    /// foreground has its own mode.
    pub fn restore(&self) {
        if tcgetpgrp(stdin()).is_ok_and(|foreground| foreground == getpgrp()) {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
        }
    }
}
