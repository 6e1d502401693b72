//! Following a log of a workspace until the workspace has ended.
//!
//! Nothing is polled: inotify(7) tells of appended bytes, and the shim of the workspace answers a
//! pending request at the end. Only where the host refuses inotify (its limit of instances) is the
//! log looked at once a second.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::client::{Client, ClientError, PendingEnd};
use crate::dir::WorkspaceDir;
use crate::lock::is_held;
use crate::log::LogReader;

/// How often to look at a log without inotify.
const LOOK: Duration = Duration::from_secs(1);

/// How often to look at a workspace that lives and does not listen: it starts or has just ended. A
/// lock that is released tells nobody.
const LISTEN: Duration = Duration::from_millis(50);

/// A log cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The log cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The log.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The workspace cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Reads a log of a workspace, from its oldest byte to the end of the workspace.
#[derive(Debug)]
pub struct Follower {
    directory: WorkspaceDir,
    path: PathBuf,
    log: LogReader,
    inotify: Option<OwnedFd>,
    end: Option<PendingEnd>,
    ended: bool,
}

impl Follower {
    /// Follows the log `path` of the workspace in `directory`.
    pub fn new(directory: &WorkspaceDir, path: &Path) -> Follower {
        let watched = watch(directory.path());
        if let Err(error) = &watched {
            tracing::debug!(%error, "no inotify");
        }
        Follower {
            directory: directory.clone(),
            path: path.to_owned(),
            log: LogReader::new(path),
            inotify: watched.ok(),
            end: None,
            ended: false,
        }
    }

    /// The next bytes, as soon as there are any. `None` when the workspace has ended and all was
    /// read, or when the reader of `output` is gone.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn next(&mut self, output: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, FollowError> {
        let mut bytes = Vec::new();
        loop {
            // In this order: what was written before the end is in the log by then.
            let ended = self.ended;
            let read = self.log.read(&mut bytes);
            let failed = |source| FollowError::Read {
                path: self.path.clone(),
                source,
            };
            if read.map_err(failed)? {
                return Ok(Some(bytes));
            }
            if ended {
                return Ok(None);
            }
            if self.end.is_none() {
                self.ask()?;
            }
            if !self.ended && !self.wait(output)? {
                return Ok(None);
            }
        }
    }

    /// Asks the workspace to tell when it has ended.
    fn ask(&mut self) -> Result<(), ClientError> {
        match Client::new(&self.directory).and_then(|client| client.pending_end()) {
            Ok(end) => self.end = Some(end),
            Err(ClientError::NotRunning) => self.ended = !is_held(&self.directory.lock())?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits for a change or the end; `false` when the reader of `output` is gone.
    fn wait(&mut self, output: BorrowedFd<'_>) -> Result<bool, ClientError> {
        let mut fds = vec![PollFd::from_borrowed_fd(output, PollFlags::empty())];
        let end = self.end.as_ref().map(|end| {
            fds.push(PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN));
            fds.len() - 1
        });
        let change = self.inotify.as_ref().map(|inotify| {
            fds.push(PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN));
            fds.len() - 1
        });
        let limit = match (end, change) {
            (None, _) => Some(LISTEN),
            (Some(_), None) => Some(LOOK),
            (Some(_), Some(_)) => None,
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        });
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let has = |index: usize| !fds[index].revents().is_empty();
        let (gone, ended) = (has(0), end.is_some_and(has));
        if let Some(inotify) = self.inotify.as_ref().filter(|_| change.is_some_and(has)) {
            drain(inotify);
        }
        if ended && let Some(end) = self.end.take() {
            match end.finish() {
                // The process that kept it was killed, or it has ended.
                Ok(_) | Err(ClientError::NotRunning) => self.ended = true,
                Err(error) => return Err(error),
            }
        }
        Ok(!gone)
    }
}

/// Tells of changes in a directory. Not of a single log, which is replaced now and then.
fn watch(directory: &Path) -> io::Result<OwnedFd> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&inotify, directory, flags | WatchFlags::ONLYDIR)?;
    Ok(inotify)
}

/// Takes the events that have arrived: only that there was one matters.
fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    while events.next().is_ok() {}
}
