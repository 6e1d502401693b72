//! Clients that are told of events. Each has a queue of bounded length, which the thread that serves
//! it empties: whoever records an event never waits for a client.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::Event;

/// How many events wait for a client. One that is further behind is told so, and left.
const QUEUE: usize = 256;

/// All clients that are told of events.
#[derive(Debug, Clone, Default)]
pub struct Subscribers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queues: Vec<SyncSender<Event>>,
    last: Option<Event>,
    /// No event follows.
    closed: bool,
    /// How many subscriptions exist.
    served: usize,
}

impl Subscribers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all of an event.
    pub fn publish(&self, event: &Event) {
        let mut state = self.state();
        (state.queues).retain(|queue| queue.try_send(event.clone()).is_ok());
        state.last = Some(event.clone());
    }

    /// What happens from now on, after the last event.
    pub fn subscribe(&self) -> Subscription {
        let (queue, events) = mpsc::sync_channel(QUEUE);
        let mut state = self.state();
        if let Some(last) = &state.last {
            // It is empty.
            let _ = queue.try_send(last.clone());
        }
        if !state.closed {
            state.queues.push(queue);
        }
        state.served += 1;
        Subscription {
            events,
            subscribers: self.clone(),
        }
    }

    /// No event follows; waits until all have been told, at most for `limit`.
    pub fn close(&self, limit: Duration) {
        let mut state = self.state();
        state.closed = true;
        state.queues.clear();
        let all_told = |state: &mut State| state.served > 0;
        let _ = self.0.changed.wait_timeout_while(state, limit, all_told);
    }
}

/// One client that is told of events.
#[derive(Debug)]
pub struct Subscription {
    /// Disconnected at the end, or if this client is too far behind.
    pub events: Receiver<Event>,
    subscribers: Subscribers,
}

impl Subscription {
    /// Whether all events were in the queue, after its end.
    pub fn is_complete(&self) -> bool {
        self.subscribers.state().closed
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribers.state().served -= 1;
        self.subscribers.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::TryRecvError;
    use std::time::Instant;

    use super::*;
    use crate::event::now;

    fn event(number: usize) -> Event {
        Event {
            request_id: "r".into(),
            runtime_id: "w".into(),
            role: "workload".into(),
            engine: None,
            state: crate::state::State::Running,
            observed_at: now(),
            detail: Some(number.to_string()),
        }
    }

    #[test]
    fn a_client_that_stalls_is_left_and_delays_nobody() {
        let subscribers = Subscribers::default();
        subscribers.publish(&event(0));
        let (slow, fast) = (subscribers.subscribe(), subscribers.subscribe());
        let mut seen = vec![fast.events.recv().unwrap()];
        for number in 1..2 * QUEUE {
            subscribers.publish(&event(number));
            seen.push(fast.events.recv().unwrap());
        }
        let numbers = |events: Vec<Event>| -> Vec<String> {
            events.into_iter().filter_map(|it| it.detail).collect()
        };
        let expected = |count| (0..count).map(|n: usize| n.to_string()).collect::<Vec<_>>();
        assert_eq!(numbers(seen), expected(2 * QUEUE));
        assert_eq!(numbers(slow.events.iter().collect()), expected(QUEUE));
        assert!(!slow.is_complete());
        assert_eq!(fast.events.try_recv(), Err(TryRecvError::Empty));
        let begun = Instant::now();
        drop(slow);
        let waiter = {
            let subscribers = subscribers.clone();
            std::thread::spawn(move || subscribers.close(Duration::from_secs(60)))
        };
        assert_eq!(fast.events.recv().ok(), None);
        assert!(fast.is_complete());
        drop(fast);
        waiter.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        let late = subscribers.subscribe();
        let last = numbers(late.events.iter().collect());
        assert_eq!(last, [(2 * QUEUE - 1).to_string()]);
    }
}
