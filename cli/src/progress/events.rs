//! Events as JSON, one per line:
//! ```json
//! {"event":{"kind":"started","stage":"fetch","detail":"9dd834d85ae5","totalBytes":45851649}}
//! {"event":{"kind":"advanced","stage":"fetch","detail":"9dd834d85ae5","bytes":20971520}}
//! {"event":{"kind":"done","stage":"fetch","detail":"9dd834d85ae5","bytes":45851649,"millis":612}}
//! {"event":{"kind":"notice","message":"…"}}
//! ```
//! `bytes` is cumulative; `advanced` is emitted at most once a second per stage and subject.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use microagent_pipeline::{Event, Stage};
use serde_json::{Value, json};

use crate::output::{notice_event, print_event};

/// Minimum interval between two `advanced` events of one task.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Events {
    work: Mutex<HashMap<(Stage, String), Work>>,
}

#[derive(Debug)]
struct Work {
    since: Instant,
    reported: Instant,
    bytes: u64,
}

impl Events {
    pub(super) fn event(&self, event: &Event) {
        if let Some(event) = self.describe(event, Instant::now()) {
            print_event(&event);
        }
    }

    fn describe(&self, event: &Event, now: Instant) -> Option<Value> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StageStarted {
                stage,
                detail,
                total_bytes,
            } => {
                let started = Work {
                    since: now,
                    reported: now,
                    bytes: 0,
                };
                work.insert((*stage, detail.clone()), started);
                Some(json!({
                    "kind": "started",
                    "stage": stage.as_str(),
                    "detail": detail,
                    "totalBytes": total_bytes,
                }))
            }
            Event::Advanced {
                stage,
                detail,
                bytes,
            } => {
                let work = work.get_mut(&(*stage, detail.clone()))?;
                work.bytes += bytes;
                if now.duration_since(work.reported) < PERIOD {
                    return None;
                }
                work.reported = now;
                Some(json!({
                    "kind": "advanced",
                    "stage": stage.as_str(),
                    "detail": detail,
                    "bytes": work.bytes,
                }))
            }
            Event::StageDone { stage, detail } => {
                let work = work.remove(&(*stage, detail.clone()))?;
                let millis = now.duration_since(work.since).as_millis();
                Some(json!({
                    "kind": "done",
                    "stage": stage.as_str(),
                    "detail": detail,
                    "bytes": work.bytes,
                    "millis": u64::try_from(millis).unwrap_or(u64::MAX),
                }))
            }
            Event::Notice(message) => Some(notice_event(message)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_reports_its_start_its_end_and_progress_once_a_second() {
        let events = Events::default();
        let start = Instant::now();
        let at =
            |seconds: f64, event| events.describe(&event, start + Duration::from_secs_f64(seconds));
        let (stage, detail) = (Stage::Fetch, "9dd".to_owned());
        let advanced = |bytes| Event::Advanced {
            stage,
            detail: detail.clone(),
            bytes,
        };
        let began = Event::StageStarted {
            stage,
            detail: detail.clone(),
            total_bytes: Some(9),
        };
        assert_eq!(
            at(0.0, began).unwrap().to_string(),
            r#"{"detail":"9dd","kind":"started","stage":"fetch","totalBytes":9}"#
        );
        assert_eq!(at(0.5, advanced(3)), None);
        assert_eq!(
            at(1.0, advanced(2)).unwrap().to_string(),
            r#"{"bytes":5,"detail":"9dd","kind":"advanced","stage":"fetch"}"#
        );
        assert_eq!(at(1.9, advanced(4)), None);
        let done = Event::StageDone {
            stage,
            detail: detail.clone(),
        };
        assert_eq!(
            at(2.0, done).unwrap().to_string(),
            r#"{"bytes":9,"detail":"9dd","kind":"done","millis":2000,"stage":"fetch"}"#
        );
    }
}
