//! The comparison: rounds of the same builds, ours and the peers' alternately.
//!
//! Noise affects both builds of a round alike, so only ratios within a round are used, and the
//! median ratio is reported. Each of our builds is checked: a "cold" build with a cache hit, or a
//! "cached" one with a miss, is an error.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::measured::Cost;
use crate::ours::{Build, Microagent};
use crate::peers::{self, Step};
use crate::subject::Subject;

/// The number of measurements of a cached build per round.
const REPEATS: usize = 10;

/// The measurements of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    /// A build with an empty state directory, to a new file.
    pub cold: Build,
    /// The same result by the peers.
    pub peers: Vec<Step>,
    /// Builds with everything cached.
    pub cached: Cached,
    /// A build with everything cached, to another new file.
    pub handed_out: Build,
    /// A build with a new small top layer, to a new file.
    pub changed: Build,
}

/// The costs of builds with everything cached, each measured [`REPEATS`] times.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// `microagent version`: the cost of a process.
    pub process: Vec<Cost>,
    /// By tag, with `--out` to the file that the cold build wrote.
    pub tag_out: Vec<Cost>,
    /// By tag, without `--out`.
    pub tag: Vec<Cost>,
    /// By digest, with `--out` to that file.
    pub digest_out: Vec<Cost>,
    /// By digest, without `--out`.
    pub digest: Vec<Cost>,
}

impl Round {
    /// The total time of the peers in milliseconds.
    pub fn peers_millis(&self) -> f64 {
        self.peers.iter().map(|step| step.cost.wall_millis).sum()
    }
}

/// Measures `count` rounds, with files below `work`. `progress` receives status lines.
///
/// # Errors
/// When a build fails or its measurement is invalid.
pub fn rounds(
    microagent: &Microagent,
    subject: &Subject,
    work: &Path,
    count: usize,
    progress: &dyn Fn(&str),
) -> Result<Vec<Round>, Error> {
    // Brings the registry's files into the page cache, and determines the size of the peers' file
    // system.
    progress("warming up");
    let warm = tempfile::tempdir_in(work).map_err(Error::file(work))?;
    let (first, _) = microagent.build(&warm.path().join("state"), &subject.base(), None)?;
    drop(warm);
    let mut rounds = Vec::new();
    for number in 0..count {
        progress(&format!("round {} of {count}", number + 1));
        let directory = tempfile::tempdir_in(work).map_err(Error::file(work))?;
        let round = round(microagent, subject, directory.path(), first.size, number)?;
        expect(round.cold.digest == first.digest, "cold", || {
            different(&first.digest, &round.cold.digest)
        })?;
        rounds.push(round);
    }
    Ok(rounds)
}

fn round(
    microagent: &Microagent,
    subject: &Subject,
    directory: &Path,
    size: u64,
    number: usize,
) -> Result<Round, Error> {
    let (base, state) = (subject.base(), directory.join("state"));
    let out = directory.join("rootfs.ext4");
    let peers = || peers::build(&base, size, &directory.join("peers"));
    let cold = || microagent.build(&state, &base, Some(&out));
    // Alternates the order, since the first build may find a quieter disk.
    let (peers, (cold, pinned)) = if number.is_multiple_of(2) {
        let cold = cold()?;
        (peers()?, cold)
    } else {
        (peers()?, cold()?)
    };
    check_cold(&cold)?;

    let mut cached = Cached::default();
    for _ in 0..REPEATS {
        cached.process.push(microagent.version()?);
        for (costs, image, out) in [
            (&mut cached.tag_out, &base, Some(&*out)),
            (&mut cached.tag, &base, None),
            (&mut cached.digest_out, &pinned, Some(&*out)),
            (&mut cached.digest, &pinned, None),
        ] {
            let (build, _) = microagent.build(&state, image, out)?;
            check_cached(&build, &cold)?;
            costs.push(build.cost);
        }
    }
    let another = directory.join("another.ext4");
    let (handed_out, _) = microagent.build(&state, &pinned, Some(&another))?;
    check_cached(&handed_out, &cold)?;
    fs::remove_file(&another).map_err(Error::file(another))?;

    let out = directory.join("changed.ext4");
    let (changed, _) = microagent.build(&state, &subject.changed(), Some(&out))?;
    check_changed(&changed, &cold)?;
    Ok(Round {
        cold,
        peers,
        cached,
        handed_out,
        changed,
    })
}

fn check_cold(build: &Build) -> Result<(), Error> {
    let found = build.nodes.iter().find(|node| node.hit);
    expect(found.is_none(), "cold", || {
        format!("cache hit of a {} node", found.map_or("", |node| &node.op))
    })?;
    for op in ["fetch", "unpack", "rootfs"] {
        expect(build.count(op, false) > 0, "cold", || {
            format!("no {op} node")
        })?;
    }
    Ok(())
}

fn check_cached(build: &Build, cold: &Build) -> Result<(), Error> {
    let done = build
        .nodes
        .iter()
        .find(|node| !node.hit && node.op != "resolve");
    expect(done.is_none(), "cached", || {
        format!("cache miss of a {} node", done.map_or("", |node| &node.op))
    })?;
    expect(build.digest == cold.digest, "cached", || {
        different(&cold.digest, &build.digest)
    })
}

fn check_changed(build: &Build, cold: &Build) -> Result<(), Error> {
    for op in ["fetch", "unpack", "rootfs"] {
        let computed = build.count(op, false);
        expect(computed == 1, "changed", || {
            format!("{computed} {op} nodes were computed, expected 1")
        })?;
    }
    expect(build.digest != cold.digest, "changed", || {
        "the digest has not changed".into()
    })
}

fn different(expected: &str, actual: &str) -> String {
    format!("digest mismatch: expected {expected}, got {actual}")
}

fn expect(truth: bool, what: &'static str, why: impl FnOnce() -> String) -> Result<(), Error> {
    match truth {
        true => Ok(()),
        false => Err(Error::Invalid { what, why: why() }),
    }
}
