//! The phases of a cold build.

use serde::Serialize;

use crate::comparison::Round;
use crate::measured::Cost;
use crate::statistics::Summary;

/// A phase of a build. Phases do not overlap.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// The median of its duration over all rounds, in milliseconds.
    pub millis: f64,
}

/// A phase's name and its duration in a round.
type Part = (&'static str, fn(&Round) -> f64);

/// The phases of our cold build. `resolve` and `rootfs` are the times of these nodes; process
/// start and the copy to `--out` are measured in other builds; layers, which are fetched and
/// unpacked concurrently, are the remainder.
pub fn ours(rounds: &[Round]) -> Vec<Phase> {
    let parts: [Part; 5] = [
        ("process start", start),
        ("resolve", |round| round.cold.millis("resolve")),
        ("fetch + unpack", layers),
        ("rootfs", |round| round.cold.millis("rootfs")),
        ("copy to --out", copy),
    ];
    phases(rounds, &parts)
}

/// The phases of the peers' build.
pub fn peers(rounds: &[Round]) -> Vec<Phase> {
    let names = rounds
        .first()
        .map(|round| &*round.peers)
        .unwrap_or_default();
    (names.iter().enumerate())
        .filter_map(|(number, step)| {
            let steps = rounds.iter().filter_map(|round| round.peers.get(number));
            let summary = Summary::of(steps.map(|step| step.cost.wall_millis))?;
            Some(Phase {
                name: step.name,
                millis: summary.median,
            })
        })
        .collect()
}

fn phases(rounds: &[Round], parts: &[Part]) -> Vec<Phase> {
    let phase = |(name, figure): &Part| {
        let millis = Summary::of(rounds.iter().map(figure))?.median;
        Some(Phase { name, millis })
    };
    parts.iter().filter_map(phase).collect()
}

fn start(round: &Round) -> f64 {
    median(&round.cached.process)
}

fn copy(round: &Round) -> f64 {
    (round.handed_out.cost.wall_millis - median(&round.cached.digest)).max(0.0)
}

fn layers(round: &Round) -> f64 {
    let cold = &round.cold;
    let others = start(round) + copy(round) + cold.millis("resolve") + cold.millis("rootfs");
    (cold.cost.wall_millis - others).max(0.0)
}

fn median(costs: &[Cost]) -> f64 {
    Summary::of(costs.iter().map(|cost| cost.wall_millis)).map_or(0.0, |summary| summary.median)
}
