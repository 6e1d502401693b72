//! The targets, and whether they are met. Lower values are better for all of them.

use serde::Serialize;

use crate::comparison::Round;
use crate::large::Large;
use crate::measured::Cost;
use crate::statistics::Summary;

const MIB: f64 = (1 << 20) as f64;

/// The unit of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// The ratio of two times of the same round.
    Ratio,
    /// Milliseconds.
    Millis,
    /// MiB.
    Mib,
}

/// A measured value compared with its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Meets the aim.
    Aim,
    /// Meets the requirement.
    Met,
    /// Misses the requirement.
    Missed,
}

/// A measured value with its target: a row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What is measured.
    pub what: String,
    /// The unit of the values.
    pub unit: Unit,
    /// The required maximum.
    pub at_least: f64,
    /// The desired maximum.
    pub aim: f64,
    /// The measured values.
    pub measured: Summary,
    /// The median compared with the target.
    pub verdict: Verdict,
}

impl Target {
    fn new(
        what: impl Into<String>,
        (unit, at_least, aim): (Unit, f64, f64),
        measured: Summary,
    ) -> Target {
        let verdict = match measured.median {
            median if median <= aim => Verdict::Aim,
            median if median <= at_least => Verdict::Met,
            _ => Verdict::Missed,
        };
        Target {
            what: what.into(),
            unit,
            at_least,
            aim,
            measured,
            verdict,
        }
    }

    /// Formats a value with this target's unit.
    pub fn show(&self, figure: f64) -> String {
        match self.unit {
            Unit::Ratio => format!("{figure:.2}"),
            Unit::Millis => format!("{figure:.1} ms"),
            Unit::Mib => format!("{figure:.0} MiB"),
        }
    }
}

impl Verdict {
    /// The verdict in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Aim => "aim",
            Verdict::Met => "yes",
            Verdict::Missed => "NO",
        }
    }
}

/// The table, without rows that were not measured.
pub fn table(rounds: &[Round], large: &[Large]) -> Vec<Target> {
    let over = |figure: fn(&Round) -> f64| Summary::of(rounds.iter().map(figure));
    let cached = |costs: fn(&Round) -> &[Cost]| {
        let all = rounds.iter().flat_map(costs);
        Summary::of(all.map(|cost| cost.wall_millis))
    };
    let cached_target = (Unit::Millis, 30.0, 5.0);
    let memory = (Unit::Mib, 128.0, 48.0);
    let mut table: Vec<Target> = [
        (
            "cold build ÷ (skopeo copy + umoci unpack + mke2fs -d)",
            (Unit::Ratio, 0.3, 0.1),
            over(|round| round.cold.cost.wall_millis / round.peers_millis()),
        ),
        (
            "everything cached, by tag, --out to the same file",
            cached_target,
            cached(|round| &round.cached.tag_out),
        ),
        (
            "everything cached, by tag",
            cached_target,
            cached(|round| &round.cached.tag),
        ),
        (
            "everything cached, by digest, --out to the same file",
            cached_target,
            cached(|round| &round.cached.digest_out),
        ),
        (
            "everything cached, by digest",
            cached_target,
            cached(|round| &round.cached.digest),
        ),
        (
            "one small top layer changed ÷ cold build",
            (Unit::Ratio, 0.5, 0.2),
            over(|round| round.changed.cost.wall_millis / round.cold.cost.wall_millis),
        ),
        (
            "peak memory, cold build",
            memory,
            over(|round| round.cold.cost.peak_rss as f64 / MIB),
        ),
    ]
    .into_iter()
    .filter_map(|(what, target, measured)| Some(Target::new(what, target, measured?)))
    .collect();
    table.extend(large.iter().filter_map(|large| {
        let peak = Summary::of([large.build.cost.peak_rss as f64 / MIB])?;
        Some(Target::new(
            format!("peak memory, {}", large.image),
            memory,
            peak,
        ))
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive() {
        let verdict = |value| {
            let summary = Summary::of([value]).unwrap();
            Target::new("x", (Unit::Ratio, 0.3, 0.1), summary).verdict
        };
        assert_eq!(verdict(0.1), Verdict::Aim);
        assert_eq!(verdict(0.11), Verdict::Met);
        assert_eq!(verdict(0.3), Verdict::Met);
        assert_eq!(verdict(0.301), Verdict::Missed);
        assert_eq!(verdict(f64::NAN), Verdict::Missed);
    }
}
