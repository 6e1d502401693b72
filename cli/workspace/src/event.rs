//! What happened to a workspace: the last event in `event.json`, replaced by rename, and a bounded
//! history in the [log](log) `events.jsonl`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::log::{self, BoundedLog, replace};
use crate::state::State;

/// The file of the last event.
pub const LAST: &str = "event.json";
/// The file of the history: one event in each line, oldest first.
pub const HISTORY: &str = "events.jsonl";

/// The maximum size of the history, in bytes.
const HISTORY_LIMIT: u64 = 1 << 20;

/// The longest detail, in bytes; a longer one is cut.
const DETAIL_LIMIT: usize = 4 << 10;

/// Something that happened to a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The identity of the request that caused it.
    pub request_id: String,
    /// The identity of the workspace; a new one for each `create`.
    pub runtime_id: String,
    /// The caller's label.
    pub role: String,
    /// The engine, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The state after it.
    pub state: State,
    /// When, as RFC 3339 in UTC.
    pub observed_at: String,
    /// More about it, such as a reason. Never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The current time as documents have it.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Records `event` in the workspace's `directory`.
///
/// # Errors
/// Those of the file system. The last event is then the one before or this one.
pub fn record(directory: &Path, event: Event) -> io::Result<()> {
    let line = append(directory, event)?;
    replace(&directory.join(LAST), &line)
}

/// Adds `event` to the history alone: it is not a change of the state, and the last event still says
/// why the workspace is in the one that it is in.
///
/// # Errors
/// Those of the file system.
pub fn note(directory: &Path, event: Event) -> io::Result<()> {
    append(directory, event).map(drop)
}

/// Appends `event` to the history; returns its line.
fn append(directory: &Path, mut event: Event) -> io::Result<Vec<u8>> {
    if let Some(detail) = &mut event.detail {
        let end = (0..=DETAIL_LIMIT.min(detail.len()))
            .rev()
            .find(|&end| detail.is_char_boundary(end));
        detail.truncate(end.unwrap_or_default());
    }
    let mut line = serde_json::to_vec(&event)?;
    line.push(b'\n');
    BoundedLog::open(&directory.join(HISTORY), HISTORY_LIMIT)?.append_line(&line)?;
    Ok(line)
}

/// The last event. `None` if there is none.
///
/// # Errors
/// Those of the file system, and an event that cannot be read.
pub fn last(directory: &Path) -> io::Result<Option<Event>> {
    match fs::read(directory.join(LAST)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The history, oldest event first. Lines that are not events are ignored: a crash may leave part
/// of one.
///
/// # Errors
/// Those of the file system.
pub fn history(directory: &Path) -> io::Result<Vec<Event>> {
    let text = log::read(&directory.join(HISTORY))?;
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(parse).collect())
}

/// The event in a line of the history; `None` if it is none.
pub fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: State, detail: &str) -> Event {
        Event {
            request_id: "r".into(),
            runtime_id: "w".into(),
            role: "workload".into(),
            engine: None,
            state,
            observed_at: now(),
            detail: Some(detail.into()),
        }
    }

    #[test]
    fn events_are_kept_in_order_and_the_last_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last(directory.path()).unwrap(), None);
        assert_eq!(history(directory.path()).unwrap(), []);
        let events = [event(State::Prepared, "a"), event(State::Starting, "b")];
        for event in &events {
            record(directory.path(), event.clone()).unwrap();
        }
        assert_eq!(last(directory.path()).unwrap().as_ref(), events.last());
        // What a crash may leave.
        let path = directory.path().join(HISTORY);
        let mut log = BoundedLog::open(&path, HISTORY_LIMIT).unwrap();
        log.append(b"{\"requestId\":").unwrap();
        drop(log);
        record(directory.path(), events[1].clone()).unwrap();
        let [first, second] = events;
        let noted = event(State::Prepared, "c");
        note(directory.path(), noted.clone()).unwrap();
        assert_eq!(last(directory.path()).unwrap().as_ref(), Some(&second));
        let expected = [first, second.clone(), second, noted];
        assert_eq!(history(directory.path()).unwrap(), expected);
    }

    #[test]
    fn the_history_is_bounded_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let long = "é".repeat(DETAIL_LIMIT);
        let path = directory.path().join(HISTORY);
        for _ in 0..400 {
            record(directory.path(), event(State::Running, &long)).unwrap();
            assert!(log::read(&path).unwrap().len() as u64 <= HISTORY_LIMIT);
        }
        record(directory.path(), event(State::Halted, "end")).unwrap();
        let events = history(directory.path()).unwrap();
        assert!(events.len() > 100, "{}", events.len());
        assert_eq!(events.last().unwrap().state, State::Halted);
        let first = events.first().unwrap().detail.as_ref().unwrap();
        assert_eq!(first.len(), DETAIL_LIMIT);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 3);
    }
}
