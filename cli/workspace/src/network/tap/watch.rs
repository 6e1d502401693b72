//! Watches the interface of a VM while it runs: who deletes it, or takes it down, cuts the guest off.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use super::interface::Interfaces;
use super::link::Link;
use super::netlink;

/// Why an interface connects its VM to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// It was deleted, or moved to another network namespace. It does not come back.
    #[error("network interface {0} was deleted")]
    Deleted(String),
    /// It was taken down, or the bridge that it is a port of.
    #[error("network interface {0} is down")]
    Down(String),
    /// It was a port of a bridge.
    #[error("network interface {port} was removed from bridge {bridge}")]
    Detached {
        /// The interface.
        port: String,
        /// The bridge.
        bridge: String,
    },
}

/// Watches an interface until it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// The thread ends when it is closed.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the interface of `link`. `report` is called when it is lost, for another reason, or
    /// works again.
    ///
    /// # Errors
    /// When this process is out of descriptors or threads.
    pub fn start(
        link: &Link,
        mut report: impl FnMut(Result<(), Lost>) + Send + 'static,
    ) -> io::Result<Watch> {
        // Before the first query, so that no change is missed.
        let news = netlink::link_events()?;
        let mut watched = Watched {
            interfaces: Interfaces::open()?,
            name: link.name.clone(),
            index: link.index,
            bridge: link.bridge.clone(),
        };
        let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let thread = thread::Builder::new()
            .name("interface".into())
            .stack_size(128 << 10)
            .spawn(move || {
                let mut before = Ok(());
                loop {
                    // If the kernel does not answer, nothing is known, and nothing is reported.
                    if let Ok(now) = watched.state()
                        && now != before
                    {
                        before = now.clone();
                        report(now);
                    }
                    let is_final = matches!(before, Err(Lost::Deleted(_)));
                    if is_final || !wait(&news, &stopped) {
                        return;
                    }
                }
            })?;
        Ok(Watch {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watched {
    interfaces: Interfaces,
    name: String,
    index: i32,
    bridge: Option<(i32, String)>,
}

impl Watched {
    fn state(&mut self) -> io::Result<Result<(), Lost>> {
        let Some(interface) = self.interfaces.by_index(self.index)? else {
            return Ok(Err(Lost::Deleted(self.name.clone())));
        };
        if !interface.up {
            return Ok(Err(Lost::Down(self.name.clone())));
        }
        let Some((index, bridge)) = &self.bridge else {
            return Ok(Ok(()));
        };
        if interface.bridge != Some(*index) {
            return Ok(Err(Lost::Detached {
                port: self.name.clone(),
                bridge: bridge.clone(),
            }));
        }
        let up = self.interfaces.by_index(*index)?.is_some_and(|it| it.up);
        Ok(up.then_some(()).ok_or_else(|| Lost::Down(bridge.clone())))
    }
}

/// Waits for a change of any interface; returns `false` to stop.
fn wait(news: &OwnedFd, stopped: &OwnedFd) -> bool {
    let mut both = [news, stopped].map(|fd| PollFd::new(fd, PollFlags::IN));
    if retry_on_intr(|| poll(&mut both, None)).is_err() || !both[1].revents().is_empty() {
        return false;
    }
    // What has changed is queried, so the messages do not matter, nor those that were lost.
    loop {
        match rustix::io::read(news, &mut [0; 64][..]) {
            Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(_) => return true,
        }
    }
}
