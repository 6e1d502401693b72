//! Signals to the process that keeps a workspace.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::listener::Shared;

/// SIGTERM and SIGINT end the workspace as `stop` does, as long as this exists; afterwards they do nothing.
#[derive(Debug)]
pub struct StopOnSignals(Handle);

impl Drop for StopOnSignals {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes SIGTERM and SIGINT end the workspace as `stop` does.
///
/// # Errors
/// When the thread cannot be created.
pub fn stop_on_signals(shared: Arc<Shared>) -> io::Result<StopOnSignals> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = StopOnSignals(signals.handle());
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                let reason = "the process that keeps the workspace was terminated";
                shared.stop(Some(reason.to_owned()));
            }
        })?;
    Ok(stop)
}
