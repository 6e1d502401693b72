//! Connections that the guest has opened: what was decided about them, or what is missing.

pub(crate) mod inspect;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::reason::Reason;
use inspect::{HeldFrame, Inspection, Watch};

/// The maximum number of flows. When it is reached, the eighth is dropped that was unused longest.
const MAX_FLOWS: usize = 16 * 1024;
/// The maximum number of connections whose beginning is kept, undecided or to be compared with
/// retransmissions. With `MAX_HELLO` each, twice while undecided, that is 16 MiB.
const MAX_KEPT: usize = 512;
/// How long a SYN may be sent again without a new decision. Linux tries for 127 seconds.
const OPENING: Duration = Duration::from_secs(150);
/// UDP and ICMP end when nothing was sent for this long. As in Linux's connection tracking.
const IDLE: Duration = Duration::from_secs(180);

/// What identifies a flow, in the guest's direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) protocol: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// For ICMP, the identifier of an echo.
    pub(crate) source_port: u16,
    /// For ICMP, 0.
    pub(crate) destination_port: u16,
}

/// A flow that was allowed to begin.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) state: State,
    pub(crate) used: Instant,
    /// For TCP, the first sequence number and its time, until a segment follows the SYN.
    pub(crate) opening: Option<(u32, Instant)>,
    /// A connection that takes the place of this one when the server accepts its SYN. Until then the
    /// server may still have this one, so what was inspected of it is not forgotten.
    pub(crate) successor: Option<Box<Inspection>>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Everything passes.
    Allowed,
    /// Nothing passes: decided by what the guest sent.
    Denied(Reason),
    /// The first data decide.
    Undecided(Box<Inspection>),
    /// Allowed because of its first data: until the other side has acknowledged them, they must not
    /// be sent again with another content.
    Watched(Watch),
}

impl Flow {
    pub(crate) fn new(state: State, now: Instant) -> Self {
        Self {
            state,
            used: now,
            opening: None,
            successor: None,
        }
    }

    /// Whether this is the SYN of the flow, sent again.
    pub(crate) fn is_opening(&self, isn: u32, now: Instant) -> bool {
        self.opening.is_some_and(|(number, since)| {
            number == isn && now.saturating_duration_since(since) < OPENING
        })
    }

    /// Whether segments from the other side matter.
    pub(crate) fn is_pending(&self) -> bool {
        self.state.is_pending() || self.successor.is_some()
    }
}

impl State {
    /// Whether the data of a connection that begins with `isn` are already inspected.
    pub(crate) fn inspects(&self, isn: u32) -> bool {
        match self {
            Self::Undecided(inspection) => inspection.begins_with(isn),
            Self::Watched(watch) => watch.begins_with(isn),
            Self::Allowed | Self::Denied(_) => false,
        }
    }

    fn is_pending(&self) -> bool {
        matches!(self, Self::Undecided(_) | Self::Watched(_))
    }
}

/// All flows of a guest.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    map: HashMap<Key, Flow>,
    /// Flows that keep data, in the states `Undecided` or `Watched`, oldest first. Some may have
    /// left them.
    kept: VecDeque<Key>,
    /// The number of flows in these states, with and without data.
    pending: usize,
}

impl Flows {
    /// The flow, if it has not ended.
    pub(crate) fn get(&mut self, key: &Key, is_tcp: bool, now: Instant) -> Option<&mut Flow> {
        let flow = self.map.get_mut(key)?;
        let is_alive = is_tcp || now.saturating_duration_since(flow.used) < IDLE;
        is_alive.then(|| {
            flow.used = now;
            flow
        })
    }

    pub(crate) fn insert(&mut self, key: Key, flow: Flow) {
        if self.map.len() >= MAX_FLOWS && !self.map.contains_key(&key) {
            self.make_room();
        }
        self.pending += usize::from(flow.is_pending());
        let old = self.map.insert(key, flow);
        self.pending -= usize::from(old.is_some_and(|old| old.is_pending()));
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        let old = self.map.remove(key);
        self.pending -= usize::from(old.is_some_and(|old| old.is_pending()));
    }

    /// The undecided connection.
    pub(crate) fn undecided(&mut self, key: &Key) -> Option<&mut Inspection> {
        match &mut self.map.get_mut(key)?.state {
            State::Undecided(inspection) => Some(inspection),
            _ => None,
        }
    }

    /// Decides about an undecided connection: the first `inspected` bytes of its data allow it, or
    /// it is denied. Returns the frames that were held.
    pub(crate) fn settle(
        &mut self,
        key: &Key,
        decision: Result<usize, Reason>,
    ) -> Result<Vec<HeldFrame>, Reason> {
        let flow = self.map.get_mut(key).ok_or(Reason::NoConnection)?;
        change(&mut self.pending, flow, |flow| {
            let denied = State::Denied(decision.err().unwrap_or(Reason::NoConnection));
            let old = std::mem::replace(&mut flow.state, denied);
            let (State::Undecided(inspection), inspected) = (old, decision?) else {
                return Err(Reason::NoConnection);
            };
            let (held, watch) = inspection.allow(inspected);
            flow.state = State::Watched(watch);
            Ok(held)
        })
    }

    /// Notes a SYN for a flow whose first data are being inspected.
    pub(crate) fn succeed(&mut self, key: &Key, inspection: Box<Inspection>) {
        if let Some(flow) = self.map.get_mut(key) {
            change(&mut self.pending, flow, |flow| {
                flow.successor = Some(inspection);
            });
        }
    }

    /// Whether [`Flows::inbound`] has something to do.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Notes that data of the flow are kept from now on, and ends that state of the oldest ones if too
    /// many are: undecided ones are denied, watched ones lose what they could compare.
    pub(crate) fn keep(&mut self, key: Key) {
        self.kept.push_back(key);
        if self.kept.len() <= MAX_KEPT {
            return;
        }
        let is_kept = |flow: &Flow| match &flow.state {
            State::Undecided(inspection) => inspection.has_data(),
            State::Watched(watch) => watch.keeps_data(),
            State::Allowed | State::Denied(_) => false,
        };
        self.kept
            .retain(|key| self.map.get(key).is_some_and(is_kept));
        while self.kept.len() > MAX_KEPT {
            let Some(flow) = self.kept.pop_front().and_then(|key| self.map.get_mut(&key)) else {
                continue;
            };
            change(&mut self.pending, flow, |flow| match &mut flow.state {
                State::Undecided(_) => flow.state = State::Denied(Reason::HoldLimit),
                State::Watched(watch) => watch.drop_data(),
                State::Allowed | State::Denied(_) => {}
            });
        }
    }

    /// Takes notice of a segment from the other side, which acknowledges everything before `number`.
    pub(crate) fn inbound(&mut self, key: &Key, is_syn: bool, number: u32) {
        let Some(flow) = self.map.get_mut(key) else {
            return;
        };
        change(&mut self.pending, flow, |flow| {
            if is_syn {
                if let Some(mut next) = flow.successor.take_if(|next| next.accepts(number)) {
                    next.accept();
                    flow.state = State::Undecided(next);
                } else if let State::Undecided(inspection) = &mut flow.state
                    && inspection.accepts(number)
                {
                    inspection.accept();
                }
            } else if let State::Watched(watch) = &flow.state
                && watch.is_acknowledged(number)
            {
                flow.state = State::Allowed;
            }
        });
    }

    fn make_room(&mut self) {
        let mut used: Vec<Instant> = self.map.values().map(|flow| flow.used).collect();
        let (_, limit, _) = used.select_nth_unstable(MAX_FLOWS / 8);
        let limit = *limit;
        self.map.retain(|_, flow| flow.used > limit);
        self.pending = self.map.values().filter(|flow| flow.is_pending()).count();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let pending = self.map.values().filter(|flow| flow.is_pending()).count();
        assert_eq!(self.pending, pending);
        self.map.len()
    }
}

/// Changes a flow, and the number of those that are pending.
fn change<T>(pending: &mut usize, flow: &mut Flow, change: impl FnOnce(&mut Flow) -> T) -> T {
    let before = usize::from(flow.is_pending());
    let result = change(flow);
    *pending = *pending + usize::from(flow.is_pending()) - before;
    result
}
