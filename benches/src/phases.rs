//! Where the time of a cold build goes.

use serde::Serialize;

use crate::comparison::Round;
use crate::measured::Cost;
use crate::statistics::Summary;

/// A part of a build, one after the other, in milliseconds; medians of the rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// What it is.
    pub name: &'static str,
    /// How long it takes.
    pub millis: f64,
}

/// A phase's name, and how a round says how long it took.
type Part = (&'static str, fn(&Round) -> f64);

/// The phases of our cold build. `resolve` and `rootfs` are what the nodes say; the start of the
/// process and the copy to `--out` are measured beside; the layers, which are fetched and
/// unpacked several at a time, are what is left.
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

/// The steps of the peers.
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
