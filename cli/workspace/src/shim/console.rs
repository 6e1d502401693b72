//! The console of the guest, which is kept in a file of bounded size.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use crate::log::BoundedLog;

/// How much of the guest's console is kept, in bytes.
const CONSOLE_LIMIT: u64 = 1 << 20;

/// How long what was written to the console may take to be kept.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The console of the guest, which is kept by a thread.
#[derive(Debug)]
pub struct Console(Receiver<()>);

impl Console {
    /// Waits until all that was written is kept. The supervisor must have ended.
    pub fn close(self) {
        // The last descriptor of the pipe's end in this process.
        let null = File::options().write(true).open("/dev/null");
        if null.is_ok_and(|null| rustix::stdio::dup2_stderr(null).is_ok()) {
            let _ = self.0.recv_timeout(CONSOLE_TIMEOUT);
        }
    }
}

/// Sends standard error, which the supervisor inherits and writes the console to, to the file.
///
/// # Errors
/// Those of the file system, and of the thread.
pub fn keep_console(path: &Path) -> io::Result<Console> {
    let (mut reader, writer) = io::pipe()?;
    let mut log = BoundedLog::open(path, CONSOLE_LIMIT)?;
    rustix::stdio::dup2_stderr(writer)?;
    let (done, ended) = mpsc::channel();
    thread::Builder::new()
        .name("console".into())
        .spawn(move || {
            let mut chunk = vec![0; 16 << 10];
            // A console that cannot be kept must not stop the guest.
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                let _ = log.append(&chunk[..length]);
            }
            let _ = done.send(());
        })?;
    Ok(Console(ended))
}
