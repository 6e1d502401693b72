//! The worker thread of one device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::Shared;
use super::registers::{Event, EventContext, Phase};

/// Epoll tokens above all queue indices.
const BACKEND: u64 = 1 << 32;
const WAKE: u64 = BACKEND + 1;

pub(super) fn spawn(
    shared: Arc<Shared>,
    notify_eventfds: &[EventFd],
) -> io::Result<JoinHandle<()>> {
    let notify_eventfds = notify_eventfds
        .iter()
        .map(EventFd::try_clone)
        .collect::<io::Result<Vec<_>>>()?;
    let epoll = Epoll::new()?;
    for (index, eventfd) in notify_eventfds.iter().enumerate() {
        add(&epoll, eventfd.as_raw_fd(), index as u64)?;
    }
    add(&epoll, shared.wake.as_raw_fd(), WAKE)?;
    let name = format!("virtio-{}", shared.core().device().device_type());
    thread::Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(move || {
            Worker {
                shared,
                notify_eventfds,
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
    notify_eventfds: Vec<EventFd>,
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
                    tracing::error!(%error, "device worker stopped: epoll_wait failed");
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

    /// Handles one event; `false` if the worker must stop.
    fn handle(&mut self, token: u64) -> bool {
        let event = match token {
            WAKE => {
                let _ = self.shared.wake.read();
                Event::State
            }
            BACKEND => Event::Backend,
            index => {
                let index = index as usize;
                if let Some(eventfd) = self.notify_eventfds.get(index) {
                    let _ = eventfd.read();
                }
                Event::Queue(index)
            }
        };
        // The lock is released between events, so that a driver with an endless supply of requests
        // does not block register accesses.
        let reschedule = |index: usize| {
            if let Some(eventfd) = self.notify_eventfds.get(index) {
                let _ = eventfd.write(1);
            }
        };
        let mut core = self.shared.core();
        let context = EventContext {
            interrupt: &self.shared.interrupt,
            reschedule: &reschedule,
        };
        core.handle(event, context);
        if core.phase() == Phase::Stopped {
            return false;
        }
        // `backend_fd` is polled only while the device is served; otherwise it may stay readable.
        let wanted = core.is_served();
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
