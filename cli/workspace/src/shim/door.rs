//! A suspended workspace whose ports are kept: a connection to one of them, which waits in the socket's
//! queue, wakes it, and so does whoever wants to use it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::message::Event;
use super::protocol::Reply;
use crate::network::publish::Bound;
use crate::state::State;

/// What happened to a suspended workspace.
#[derive(Debug)]
pub enum Door {
    /// It is to go on, with these ports.
    Woken(Vec<Bound>),
    /// Its memory is not wanted any more.
    Killed {
        /// The state after it.
        state: State,
        /// Why.
        reason: Option<String>,
        /// Who is told.
        reply: Sender<Reply>,
    },
    /// This process is to end; the workspace stays as it is.
    Closed(Option<Sender<Reply>>),
}

/// Waits until something happens to a suspended workspace.
///
/// # Errors
/// When the thread cannot be created.
pub fn keep(
    ports: Vec<Bound>,
    events: &Receiver<Event>,
    sender: Sender<Event>,
) -> io::Result<Door> {
    let watch = Watch::start(ports, sender)?;
    loop {
        match events.recv() {
            Ok(Event::Wake) => return Ok(Door::Woken(watch.end())),
            Ok(Event::Resume { reply }) => {
                let _ = reply.send(Reply::Done);
                return Ok(Door::Woken(watch.end()));
            }
            Ok(Event::Kill {
                state,
                reason,
                reply,
            }) => {
                return Ok(Door::Killed {
                    state,
                    reason,
                    reply,
                });
            }
            Ok(Event::Stop { reply, .. }) => return Ok(Door::Closed(Some(reply))),
            Ok(Event::Wait { reply }) => {
                let (state, result) = (State::Suspended, None);
                let _ = reply.send(Reply::Ended { state, result });
            }
            Ok(other) => {
                if let Some(reply) = other.into_reply() {
                    let _ = reply.send(Reply::is(State::Suspended));
                }
            }
            Err(_) => return Ok(Door::Closed(None)),
        }
    }
}

/// A thread that waits for the first connection.
struct Watch {
    stop: OwnedFd,
    thread: JoinHandle<Vec<Bound>>,
}

impl Watch {
    fn start(ports: Vec<Bound>, events: Sender<Event>) -> io::Result<Watch> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let thread = thread::Builder::new().name("door".into()).spawn(move || {
            if a_connection_waits(&ports, &stopped) {
                let _ = events.send(Event::Wake);
            }
            ports
        })?;
        Ok(Watch { stop, thread })
    }

    /// Gives the ports back.
    fn end(self) -> Vec<Bound> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

/// Waits for a connection to one of the ports; `false` if the pipe was closed before.
fn a_connection_waits(ports: &[Bound], stopped: &OwnedFd) -> bool {
    let sockets = ports.iter().map(|port| port.listener().as_fd());
    let waited = std::iter::once(stopped.as_fd()).chain(sockets);
    let mut waited: Vec<_> = waited
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    loop {
        match poll(&mut waited, None) {
            Ok(_) => return waited[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::mpsc;

    use super::*;
    use crate::spec::{Forward, Protocol};

    fn port() -> Bound {
        Bound::new(&Forward {
            host: None,
            host_port: 0,
            guest_port: 80,
            protocol: Protocol::default(),
        })
        .unwrap()
    }

    #[test]
    fn a_connection_wakes_and_is_still_there_afterwards() {
        let (port, other) = (port(), port());
        let address = port.listener().local_addr().unwrap();
        let (sender, events) = mpsc::channel();
        let client = TcpStream::connect(address).unwrap();
        let Door::Woken(ports) = keep(vec![other, port], &events, sender).unwrap() else {
            panic!("it was not woken");
        };
        let (_, peer) = ports[1].listener().accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn requests_wake_it_or_end_it_and_others_are_answered() {
        let ask = |event: fn(Sender<Reply>) -> Event| {
            let (sender, events) = mpsc::channel();
            let (reply, replies) = mpsc::channel();
            sender
                .send(Event::Wait {
                    reply: reply.clone(),
                })
                .unwrap();
            sender
                .send(Event::Pause {
                    reply: reply.clone(),
                })
                .unwrap();
            sender.send(event(reply)).unwrap();
            let left = keep(vec![port()], &events, sender.clone()).unwrap();
            let state = State::Suspended;
            let ended = Reply::Ended {
                state,
                result: None,
            };
            assert_eq!(replies.recv().unwrap(), ended);
            assert_eq!(replies.recv().unwrap(), Reply::is(State::Suspended));
            left
        };
        assert!(matches!(ask(|_| Event::Wake), Door::Woken(ports) if ports.len() == 1));
        assert!(matches!(
            ask(|reply| Event::Resume { reply }),
            Door::Woken(_)
        ));
        let stop = |reply| Event::Stop {
            force: true,
            reason: None,
            reply,
        };
        assert!(matches!(ask(stop), Door::Closed(Some(_))));
        let kill = |reply| Event::Kill {
            state: State::Stopped,
            reason: Some("why".into()),
            reply,
        };
        assert!(matches!(
            ask(kill),
            Door::Killed {
                state: State::Stopped,
                ..
            }
        ));
    }
}
