//! What the file of a held lock says: which process holds it, and where that listens.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::lock::Lock;

/// What the holder of a lock writes into its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The socket on which it listens.
    pub socket: PathBuf,
}

/// Says in the file of the lock where this process listens.
///
/// # Errors
/// Those of the file system.
pub fn announce(lock: &Lock, socket: &Path) -> io::Result<()> {
    let holder = Holder {
        pid: std::process::id(),
        socket: socket.to_owned(),
    };
    let mut text = serde_json::to_vec(&holder)?;
    text.push(b'\n');
    let file = lock.file();
    file.set_len(0)?;
    file.write_all_at(&text, 0)
}
