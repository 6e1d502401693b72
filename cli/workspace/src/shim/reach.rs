//! Where the requests to a shim come from.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::listener::{self, Listening, Shared};
use super::signals::{StopOnSignals, stop_on_signals};
use crate::machine::run_dir::RunDir;

/// The name of the socket in the run directory.
const SOCKET: &str = "shim";

/// A socket in a run directory, and signals. When this is dropped, there are none any more.
#[derive(Debug)]
pub struct Reach {
    _signals: StopOnSignals,
    _listening: Listening,
    run_dir: RunDir,
}

impl Reach {
    /// Passes requests on to `shared`.
    ///
    /// # Errors
    /// When the socket or a thread cannot be created.
    pub fn open(run_dir: RunDir, shared: &Arc<Shared>) -> io::Result<Reach> {
        Ok(Reach {
            _signals: stop_on_signals(Arc::clone(shared))?,
            _listening: listener::serve(&run_dir.path().join(SOCKET), Arc::clone(shared))?,
            run_dir,
        })
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.path().join(SOCKET)
    }

    /// The directory of sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.path().to_owned()
    }
}
