//! Health checks while a workspace runs.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use microagent_workspace::client::Client;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::health::{AGENT, Counter, check, ping};
use microagent_workspace::spec::Health;
use microagent_workspace::start::recorded;
use microagent_workspace::state::State;

use crate::settings::Settings;

/// Checks the health of a workspace that was started at `started` until `ended` is disconnected, and
/// kills it when it is unhealthy. One that has no check must have an agent that answers.
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
        let Ok(spec) = directory.known_spec() else {
            return;
        };
        let health = spec.health.as_ref().unwrap_or(&AGENT);
        let interval = Duration::from_secs(health.interval_seconds.into());
        if ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let (Ok(recorded), Ok(client)) = (recorded(&spec), Client::new(directory)) else {
            continue;
        };
        // A paused guest does not answer, and is not unhealthy.
        if !(client.status()).is_ok_and(|status| status.state == State::Running) {
            continue;
        }
        let limit = Duration::from_secs(health.timeout_seconds.into());
        let result = match health.check() {
            Some(what) => check(&client, &spec, recorded, what, limit),
            None => ping(&client, limit),
        };
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
