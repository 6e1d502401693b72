//! What the rules of one VM refused: the frames that its supervisor reports, and the names that this
//! process did not resolve.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use microagent_egress::{Reason, Refusal, Tally};
use microagent_proto::control::{MAX_REFUSALS, Refused};
use serde_json::Value;

use super::lock;

/// How many frames, and how many names, a [`Summary::notice`] has at most.
const FEW: usize = 3;

/// What the rules of one VM refused so far. Clones share it, so that it is known when the VM has
/// ended.
#[derive(Clone)]
pub struct Refusals(Arc<Shared>);

struct Shared {
    frames: Mutex<Frames>,
    names: Mutex<Tally>,
    report: Box<dyn Fn(String) + Send + Sync>,
}

#[derive(Default)]
struct Frames {
    refused: Refused,
    /// How many of the list were reported.
    reported: usize,
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Refusals").field(&self.summary()).finish()
    }
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals::new(|_| {})
    }
}

impl Refusals {
    /// `report` is called with a description of the first refusal of each kind, for at most
    /// [`MAX_REFUSALS`] frames and as many names. It must not block.
    pub fn new(report: impl Fn(String) + Send + Sync + 'static) -> Refusals {
        Refusals(Arc::new(Shared {
            frames: Mutex::default(),
            names: Mutex::default(),
            report: Box::new(report),
        }))
    }

    /// All frames that were refused so far.
    pub(super) fn set_frames(&self, refused: Refused) {
        let new: Vec<String> = {
            let mut frames = lock(&self.0.frames);
            let listed = refused.refused.iter().take(MAX_REFUSALS);
            let new = listed.skip(frames.reported).map(describe).collect();
            let known = refused.refused.len().min(MAX_REFUSALS);
            frames.reported = frames.reported.max(known);
            frames.refused = refused;
            new
        };
        new.into_iter().for_each(&self.0.report);
    }

    /// Counts names.
    pub(super) fn names(&self) -> MutexGuard<'_, Tally> {
        lock(&self.0.names)
    }

    /// Reports the names that were counted first since the last call.
    pub(super) fn report_names(&self) {
        let new: Vec<String> = (self.names().take_new().iter())
            .map(Refusal::to_string)
            .collect();
        new.into_iter().for_each(&self.0.report);
    }

    /// All that was refused so far.
    pub fn summary(&self) -> Summary {
        Summary {
            frames: lock(&self.0.frames).refused.clone(),
            names: self.refused_names(),
        }
    }

    /// The names that were refused so far.
    pub fn refused_names(&self) -> Refused {
        let names = self.names();
        Refused::new(names.refusals(), names.counts())
    }
}

/// What the rules of a VM refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Frames that the guest sent.
    pub frames: Refused,
    /// Names that it asked for.
    pub names: Refused,
}

impl Summary {
    /// Both together.
    pub fn merged(self) -> Refused {
        let mut merged = self.frames;
        merged.add(self.names);
        merged
    }

    /// One line: how many frames and names were refused, and the first of them. `None` if none were.
    pub fn notice(&self) -> Option<String> {
        let total = self.total()?;
        let first = |refused: &Refused| -> Vec<String> {
            refused.refused.iter().take(FEW).map(describe).collect()
        };
        let first = [first(&self.frames), first(&self.names)].concat();
        Some(match first.is_empty() {
            true => total,
            false => format!("{total}, first {}", first.join("; ")),
        })
    }

    /// One line: how many frames and names were refused, and how many for each reason. `None` if
    /// none were.
    pub fn totals(&self) -> Option<String> {
        let total = self.total()?;
        Some(format!("{total}: {}", counts(&self.clone().merged())))
    }

    fn total(&self) -> Option<String> {
        let parts = [(&self.frames, "frame"), (&self.names, "name")];
        let parts: Vec<String> = (parts.iter())
            .filter_map(|(refused, what)| match refused.total() {
                0 => None,
                1 => Some(format!("1 {what}")),
                count => Some(format!("{count} {what}s")),
            })
            .collect();
        (!parts.is_empty()).then(|| format!("the egress rules refused {}", parts.join(" and ")))
    }
}

/// What was refused, for people: `TCP to 192.0.2.1:80: not allowed by a rule`. Of a release that
/// knows other reasons, the reason alone.
pub fn describe(refusal: &Value) -> String {
    match serde_json::from_value::<Refusal>(refusal.clone()) {
        Ok(refusal) => refusal.to_string(),
        Err(_) => reason_text(refusal["reason"].as_str().unwrap_or("unknown")),
    }
}

/// How often each reason occurred, for people.
pub fn counts(refused: &Refused) -> String {
    let counts = refused.refused_counts.iter();
    let texts = counts.map(|(reason, count)| format!("{} ({count})", reason_text(reason)));
    texts.collect::<Vec<_>>().join(", ")
}

fn reason_text(reason: &str) -> String {
    match serde_json::from_value::<Reason>(reason.into()) {
        Ok(known) => known.to_string(),
        Err(_) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use microagent_egress::Destination;
    use serde_json::json;

    use super::*;

    fn frame(port: u16) -> Value {
        json!({
            "reason": "noRule", "protocol": "tcp", "address": "192.0.2.1", "port": port, "count": 2,
        })
    }

    fn frames(listed: impl IntoIterator<Item = u16>, count: u64) -> Refused {
        Refused {
            refused: listed.into_iter().map(frame).collect(),
            refused_counts: [("noRule".to_owned(), count)].into(),
        }
    }

    fn name(text: &str) -> Destination {
        Destination {
            name: text.parse().ok(),
            ..Destination::default()
        }
    }

    #[test]
    fn the_first_of_each_kind_is_reported_once_and_everything_is_counted() {
        let (sender, reports) = mpsc::channel();
        let refusals = Refusals::new(move |text| sender.send(text).unwrap());
        assert_eq!(refusals.summary().notice(), None);
        assert_eq!(refusals.summary().totals(), None);
        refusals.set_frames(frames([80], 1));
        refusals.set_frames(frames([80], 6));
        refusals.set_frames(frames([80, 81, 82, 83], 20));
        for _ in 0..2 {
            refusals.names().add(Reason::DnsName, name("a.example"));
            refusals.report_names();
        }
        let tcp = |port| format!("TCP to 192.0.2.1:{port}: not allowed by a rule");
        let asked = "a frame to a.example: DNS name not allowed by a rule";
        assert_eq!(
            reports.try_iter().collect::<Vec<_>>(),
            [tcp(80), tcp(81), tcp(82), tcp(83), asked.to_owned()]
        );
        let summary = refusals.clone().summary();
        assert_eq!(
            summary.notice().unwrap(),
            format!(
                "the egress rules refused 20 frames and 2 names, first {}; {}; {}; {asked}",
                tcp(80),
                tcp(81),
                tcp(82)
            )
        );
        assert_eq!(
            summary.totals().unwrap(),
            "the egress rules refused 20 frames and 2 names: DNS name not allowed by a rule (2), \
             not allowed by a rule (20)"
        );
        let merged = summary.merged();
        assert_eq!((merged.refused.len(), merged.total()), (5, 22));
    }

    #[test]
    fn reports_are_bounded_whatever_the_supervisor_sends() {
        let (sender, reports) = mpsc::channel();
        let refusals = Refusals::new(move |text| sender.send(text).unwrap());
        for count in [1, 60_000, 0, 60_000] {
            refusals.set_frames(frames(0..count, 1));
        }
        assert_eq!(reports.try_iter().count(), MAX_REFUSALS);
    }

    #[test]
    fn reasons_of_other_releases_are_shown_as_they_are() {
        let mood = json!({ "reason": "mood", "count": 1 });
        assert_eq!(describe(&mood), "mood");
        assert_eq!(describe(&json!({ "reason": "vlan" })), "VLAN tag");
        assert_eq!(describe(&json!(7)), "unknown");
        let refused = Refused {
            refused: vec![mood],
            refused_counts: [("mood".to_owned(), 1), ("vlan".to_owned(), 2)].into(),
        };
        assert_eq!(counts(&refused), "mood (1), VLAN tag (2)");
        // Of a supervisor that sends only counts, or only a list.
        let summary = Summary {
            frames: Refused {
                refused: Vec::new(),
                ..refused.clone()
            },
            names: Refused::default(),
        };
        assert_eq!(
            summary.notice().unwrap(),
            "the egress rules refused 3 frames"
        );
    }
}
