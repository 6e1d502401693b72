//! Signals to the process that keeps a workspace.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::listener::Shared;

/// Makes SIGTERM and SIGINT end the workspace as `stop` does.
///
/// # Errors
/// When the thread cannot be created.
pub fn stop_on_signals(shared: Arc<Shared>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                let reason = "the process that keeps the workspace was terminated";
                shared.stop(Some(reason.to_owned()));
            }
        })
        .map(drop)
}
