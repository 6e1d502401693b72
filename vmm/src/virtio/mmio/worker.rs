//! The thread that serves one device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::Shared;
use super::registers::{Around, Event, Life};

/// Epoll tokens: queue indices count from zero; these are beyond any.
const BACKEND: u64 = 1 << 32;
const WAKE: u64 = BACKEND + 1;

pub(super) fn spawn(shared: Arc<Shared>, kicks: &[EventFd]) -> io::Result<JoinHandle<()>> {
    let kicks = kicks
        .iter()
        .map(EventFd::try_clone)
        .collect::<io::Result<Vec<_>>>()?;
    let epoll = Epoll::new()?;
    for (index, kick) in kicks.iter().enumerate() {
        add(&epoll, kick.as_raw_fd(), index as u64)?;
    }
    add(&epoll, shared.wake.as_raw_fd(), WAKE)?;
    let name = format!("virtio-{}", shared.core().device().device_type());
    thread::Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(move || {
            Worker {
                shared,
                kicks,
                epoll,
                backend_armed: false,
            }
            .run()
        })
}

fn add(epoll: &Epoll, fd: i32, token: u64) -> io::Result<()> {
    epoll.ctl(
        ControlOperation::Add,
        fd,
        EpollEvent::new(EventSet::IN, token),
    )
}

struct Worker {
    shared: Arc<Shared>,
    kicks: Vec<EventFd>,
    epoll: Epoll,
    backend_armed: bool,
}

impl Worker {
    fn run(mut self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "a device's worker cannot wait any more");
                    return;
                }
            };
            for event in &events[..ready] {
                if !self.handle(event.data()) {
                    return;
                }
            }
        }
    }

    /// `false` when the worker shall end.
    fn handle(&mut self, token: u64) -> bool {
        let event = match token {
            WAKE => {
                let _ = self.shared.wake.read();
                Event::State
            }
            BACKEND => Event::Backend,
            index => {
                let index = index as usize;
                if let Some(kick) = self.kicks.get(index) {
                    let _ = kick.read();
                }
                Event::Queue(index)
            }
        };
        // Between two of these the device's lock is free: a driver that always has more to do
        // keeps nobody from its registers.
        let again = |index: usize| {
            if let Some(kick) = self.kicks.get(index) {
                let _ = kick.write(1);
            }
        };
        let mut core = self.shared.core();
        let around = Around {
            interrupt: &self.shared.interrupt,
            again: &again,
        };
        core.handle(event, around);
        if core.life() == Life::Ended {
            return false;
        }
        // The device's own descriptor is watched only while the device is served: it may stay
        // readable for as long as nobody listens.
        let wanted = core.life() == Life::Live;
        let backend = core.device().backend_fd().map(|fd| fd.as_raw_fd());
        drop(core);
        if let Some(fd) = backend
            && wanted != self.backend_armed
        {
            let operation = if wanted {
                ControlOperation::Add
            } else {
                ControlOperation::Delete
            };
            if self
                .epoll
                .ctl(operation, fd, EpollEvent::new(EventSet::IN, BACKEND))
                .is_ok()
            {
                self.backend_armed = wanted;
            }
        }
        true
    }
}
