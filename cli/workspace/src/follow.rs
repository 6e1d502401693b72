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
    watch: Option<Watch>,
    end: Option<PendingEnd>,
    ended: bool,
}

impl Follower {
    /// Follows the log `path` of the workspace in `directory`.
    pub fn new(directory: &WorkspaceDir, path: &Path) -> Follower {
        let watched = Watch::new(directory.path(), path);
        if let Err(error) = &watched {
            tracing::debug!(%error, "no inotify");
        }
        Follower {
            directory: directory.clone(),
            path: path.to_owned(),
            log: LogReader::new(path),
            watch: watched.ok(),
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
            if self.read(&mut bytes)? {
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

    /// All that there is now, without waiting. [`Follower::next`] goes on after it.
    ///
    /// # Errors
    /// [`FollowError::Read`].
    pub fn present(&mut self) -> Result<Vec<u8>, FollowError> {
        let mut bytes = Vec::new();
        while self.read(&mut bytes)? {}
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut Vec<u8>) -> Result<bool, FollowError> {
        self.log.read(bytes).map_err(|source| FollowError::Read {
            path: self.path.clone(),
            source,
        })
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
        let change = self.watch.as_ref().map(|watch| {
            let inotify = watch.inotify.as_fd();
            fds.push(PollFd::from_borrowed_fd(inotify, PollFlags::IN));
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
        let has_changed = change.is_some_and(has);
        if let Some(watch) = self.watch.as_ref().filter(|_| has_changed)
            && let Err(error) = watch.take()
        {
            tracing::debug!(%error, "no inotify");
            self.watch = None;
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

/// Tells of changes of a log: of the file to which bytes are appended, and of its directory, in which
/// another one takes its place now and then. Not of what is written to other files there, such as the
/// guest's disk.
#[derive(Debug)]
struct Watch {
    inotify: OwnedFd,
    path: PathBuf,
}

impl Watch {
    fn new(directory: &Path, path: &Path) -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, directory, flags)?;
        let path = path.to_owned();
        let watch = Watch { inotify, path };
        watch.renew()?;
        Ok(watch)
    }

    /// Watches the file that is the log now. Without effect if that is watched.
    fn renew(&self) -> io::Result<()> {
        match inotify::add_watch(&self.inotify, self.path.as_path(), WatchFlags::MODIFY) {
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the events that have arrived: only that there was one matters. What is appended to a new
    /// log before it is watched is found by who reads it then.
    fn take(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while events.next().is_ok() {}
        self.renew()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::log::BoundedLog;

    fn has_changed(watch: &Watch) -> bool {
        let mut fds = [PollFd::new(&watch.inotify, PollFlags::IN)];
        let changed = poll(&mut fds, Some(&Timespec::default())).unwrap() > 0;
        watch.take().unwrap();
        changed
    }

    #[test]
    fn only_the_log_is_watched_through_its_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let (path, disk) = (directory.path().join("log"), directory.path().join("disk"));
        fs::write(&disk, "").unwrap();
        let watch = Watch::new(directory.path(), &path).unwrap();
        assert!(!has_changed(&watch));
        let mut log = BoundedLog::open(&path, 100).unwrap();
        assert!(has_changed(&watch));
        for number in 0..100 {
            log.append(format!("line {number:04}\n").as_bytes())
                .unwrap();
            assert!(has_changed(&watch), "{number}");
            fs::write(&disk, "written").unwrap();
            assert!(!has_changed(&watch), "{number}");
        }
    }
}
