//! Reports of what the rules of the network interface refuse, so that the caller knows of it soon, and
//! of everything at the end. However much a guest sends, it causes one message of bounded size in
//! each [`REFUSED_PERIOD`].

use std::time::Instant;

use microagent_proto::control::{FromSupervisor, REFUSED_PERIOD, Refused};

use super::{Control, ControlError};
use crate::virtio::net::{SharedFilter, lock};

/// Reports of one filter.
#[derive(Debug)]
pub(super) struct Refusals {
    filter: SharedFilter,
    /// How much was refused when the last report was sent.
    reported: u64,
    /// When the next report may be sent.
    due: Instant,
}

impl Refusals {
    /// Reports of this filter.
    pub fn of(filter: SharedFilter) -> Refusals {
        Refusals {
            filter,
            reported: 0,
            due: Instant::now(),
        }
    }

    /// Reports what is new, if it is time. A caller that has no room for the message gets a later
    /// one, which has the same and more.
    pub fn report(&mut self, control: &Control, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + REFUSED_PERIOD;
        // A caller that has closed its end finds out elsewhere.
        let _ = self.send(|message| control.try_send(message, None));
    }

    /// Reports what is new at the end.
    pub fn report_last(&mut self, control: &Control) {
        let _ = self.send(|message| control.send(message));
    }

    fn send(
        &mut self,
        send: impl FnOnce(&FromSupervisor) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let total: u64 = lock(&self.filter).tally().counts().values().sum();
        if total > self.reported {
            let refused = refused(&self.filter);
            let total = refused.total();
            send(&FromSupervisor::Refused(refused))?;
            self.reported = total;
        }
        Ok(())
    }
}

/// What a filter has refused so far. It is not locked meanwhile, because its device waits for it.
pub(super) fn refused(filter: &SharedFilter) -> Refused {
    let tally = lock(filter).tally().clone();
    Refused::new(tally.refusals(), tally.counts())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use microagent_egress::{Filter, Guest, GuestFrame, Policy, Reason, Verdict};
    use serde_json::json;

    use super::*;
    use crate::supervisor::testing::Caller;

    fn filter() -> SharedFilter {
        let guest = Guest {
            mac: [2, 0, 0, 0, 0, 1],
            ipv4: "10.0.2.15/24".parse().ok(),
            ipv6: Vec::new(),
            gateways: Vec::new(),
        };
        Arc::new(Mutex::new(Filter::new(Some(Policy::default()), guest)))
    }

    /// The guest sends a frame that is shorter than a header.
    fn send_truncated(filter: &SharedFilter) {
        let frame = GuestFrame {
            bytes: &[0; 6],
            len: 6,
            header: &[],
        };
        let verdict = lock(filter).check(&frame, Instant::now());
        assert_eq!(verdict, Verdict::Drop(Reason::Malformed));
    }

    fn received(caller: &Caller) -> Option<Refused> {
        caller.received().map(|message| match message {
            FromSupervisor::Refused(refused) => refused,
            other => panic!("{other:?}"),
        })
    }

    fn malformed(count: u64) -> Option<Refused> {
        Some(Refused {
            refused: vec![json!({ "reason": "malformed", "count": count })],
            refused_counts: [("malformed".to_owned(), count)].into(),
        })
    }

    #[test]
    fn the_first_is_reported_at_once_and_others_once_in_each_period() {
        let (caller, control) = Caller::connected();
        let filter = filter();
        let mut refusals = Refusals::of(Arc::clone(&filter));
        let begin = Instant::now();
        refusals.report(&control, begin);
        assert_eq!(received(&caller), None);
        let mut now = begin + REFUSED_PERIOD;
        send_truncated(&filter);
        refusals.report(&control, now);
        assert_eq!(received(&caller), malformed(1));
        for _ in 0..1000 {
            send_truncated(&filter);
            refusals.report(&control, now);
        }
        assert_eq!(received(&caller), None);
        now += REFUSED_PERIOD;
        refusals.report(&control, now);
        assert_eq!(received(&caller), malformed(1001));
        // Nothing is new.
        refusals.report(&control, now + REFUSED_PERIOD);
        refusals.report_last(&control);
        assert_eq!(received(&caller), None);
        send_truncated(&filter);
        refusals.report_last(&control);
        assert_eq!(received(&caller), malformed(1002));
    }

    #[test]
    fn a_caller_without_room_is_not_waited_for_and_gets_it_later() {
        let (caller, control) = Caller::connected();
        let filter = filter();
        let mut refusals = Refusals::of(Arc::clone(&filter));
        let mut now = Instant::now();
        while control.try_send(&FromSupervisor::Released, None).is_ok() {}
        send_truncated(&filter);
        refusals.report(&control, now);
        while let Some(message) = caller.received() {
            assert_eq!(message, FromSupervisor::Released);
        }
        now += REFUSED_PERIOD + Duration::from_millis(1);
        refusals.report(&control, now);
        assert_eq!(received(&caller), malformed(1));
    }
}
