//! Stops all processes but the agent's own, so that a VM that was saved gets its identity and the time before
//! anything else runs.
//!
//! Every cgroup below the top is frozen (Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze`), whoever
//! made it; one that was frozen before stays so afterwards. Processes at the top besides the agent, which
//! only root can put there, go on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// How long processes may take to stop. One that waits for a disk does not stop before that answers.
const LIMIT: Duration = Duration::from_secs(5);

/// The groups that are frozen.
#[derive(Debug, Default)]
pub struct Freezer(Mutex<Vec<PathBuf>>);

impl Freezer {
    /// Freezes all groups below `top`, and waits until their processes have stopped.
    ///
    /// # Errors
    /// When that takes too long; everything runs then.
    pub fn freeze(&self, top: &Path) -> io::Result<()> {
        self.freeze_within(top, LIMIT)
    }

    fn freeze_within(&self, top: &Path, limit: Duration) -> io::Result<()> {
        let mut frozen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = match fs::read_dir(top) {
            Ok(groups) => groups,
            // A kernel without cgroups.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in groups.flatten() {
            let group = entry.path();
            // A file, or a group that is gone, has none to read.
            let is_running = |text: String| text.trim() == "0";
            if fs::read_to_string(group.join("cgroup.freeze")).is_ok_and(is_running)
                && fs::write(group.join("cgroup.freeze"), "1").is_ok()
            {
                frozen.push(group);
            }
        }
        let deadline = Instant::now() + limit;
        let stopped = frozen.iter().try_for_each(|group| wait(group, deadline));
        if stopped.is_err() {
            thaw(&mut frozen);
        }
        stopped
    }

    /// Lets them run again. Without effect if they do.
    pub fn thaw(&self) {
        thaw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn thaw(frozen: &mut Vec<PathBuf>) {
    for group in frozen.drain(..) {
        // It may be gone.
        let _ = fs::write(group.join("cgroup.freeze"), "0");
    }
}

/// Waits until a group has stopped, or is gone.
fn wait(group: &Path, deadline: Instant) -> io::Result<()> {
    let path = group.join("cgroup.events");
    loop {
        let Ok(events) = fs::File::open(&path) else {
            return Ok(());
        };
        match io::read_to_string(&events) {
            Ok(text) if text.lines().any(|line| line == "frozen 1") => return Ok(()),
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Since it was read: the kernel reports each change.
        let left = left.try_into().map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group whose files are like those of the kernel, but do not change.
    fn group(top: &Path, name: &str, freeze: &str, frozen: bool) {
        let group = top.join(name);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.freeze"), format!("{freeze}\n")).unwrap();
        let events = format!("populated 1\nfrozen {}\n", u8::from(frozen));
        fs::write(group.join("cgroup.events"), events).unwrap();
    }

    fn freeze(top: &Path, name: &str) -> String {
        let text = fs::read_to_string(top.join(name).join("cgroup.freeze")).unwrap();
        text.trim().to_owned()
    }

    #[test]
    fn groups_that_run_are_frozen_and_thawed_and_others_stay_as_they_are() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path();
        group(top, "microagent-1", "0", true);
        group(top, "docker", "0", true);
        group(top, "paused", "1", true);
        fs::write(top.join("cgroup.procs"), "1\n").unwrap();
        let freezer = Freezer::default();
        freezer.freeze(top).unwrap();
        let all = ["microagent-1", "docker", "paused"];
        assert_eq!(all.map(|name| freeze(top, name)), ["1", "1", "1"]);
        freezer.thaw();
        assert_eq!(all.map(|name| freeze(top, name)), ["0", "0", "1"]);
        // Nothing is remembered.
        fs::write(top.join("docker/cgroup.freeze"), "1").unwrap();
        freezer.thaw();
        assert_eq!(freeze(top, "docker"), "1");
    }

    #[test]
    fn a_group_that_does_not_stop_lets_all_run() {
        let top = tempfile::tempdir().unwrap();
        group(top.path(), "stops", "0", true);
        group(top.path(), "waits", "0", false);
        let freezer = Freezer::default();
        let limit = Duration::from_millis(20);
        let error = freezer.freeze_within(top.path(), limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            ["stops", "waits"].map(|name| freeze(top.path(), name)),
            ["0", "0"]
        );
        freezer.freeze(&top.path().join("absent")).unwrap();
    }
}
