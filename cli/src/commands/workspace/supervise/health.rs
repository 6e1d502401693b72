//! Health checks while a workspace runs.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use microagent_workspace::client::Client;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::health::{Counter, check};
use microagent_workspace::spec::Health;
use microagent_workspace::start::recorded;
use microagent_workspace::state::State;

use crate::settings::Settings;

/// How often to look whether a workspace without health checks has got some.
const LOOK: Duration = Duration::from_secs(30);

/// Checks the health of a workspace that was started at `started` until `ended` is disconnected, and
/// kills it when it is unhealthy.
pub fn watch(
    directory: &WorkspaceDir,
    name: &str,
    started: Instant,
    ended: &Receiver<()>,
    settings: &Settings,
) {
    let mut counted: Option<(Health, Counter)> = None;
    loop {
        // As it is now: it may have been changed meanwhile.
        let Ok(spec) = directory.spec() else { return };
        let interval = match &spec.health {
            Some(health) => Duration::from_secs(health.interval_seconds.into()),
            None => LOOK,
        };
        if ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let (Some(health), Ok(recorded)) = (&spec.health, recorded(&spec)) else {
            continue;
        };
        let (Some(what), Ok(client)) = (health.check(), Client::new(directory)) else {
            continue;
        };
        // A paused guest does not answer, and is not unhealthy.
        if !(client.status()).is_ok_and(|status| status.state == State::Running) {
            continue;
        }
        let limit = Duration::from_secs(health.timeout_seconds.into());
        let result = check(&client, &spec, recorded, what, limit);
        let (_, counter) = match &mut counted {
            Some(known) if known.0 == *health => known,
            other => other.insert((health.clone(), Counter::new(health, started))),
        };
        let unhealthy = counter.count(result.is_ok(), Instant::now());
        let Err(why) = result else { continue };
        // It may have been paused, or have ended, during the check.
        if !(client.status()).is_ok_and(|status| status.state == State::Running) {
            continue;
        }
        settings
            .output
            .notice(&format!("{name}: check failed: {why}"));
        if unhealthy {
            // The end is seen by who waits for it.
            let _ = client.fail(format!("unhealthy: {why}"));
            return;
        }
    }
}
