//! The comparison: rounds of the same builds, ours and the peers' in turns.
//!
//! What a noisy machine does to one it does to the other shortly after, so only ratios within a
//! round are compared, and the median of the rounds' ratios is reported. Each build of ours is
//! checked to be what it is called: a "cold" build that found something, or a "cached" one that
//! did not, is an error and no number.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::measured::Cost;
use crate::ours::{Build, Microagent};
use crate::peers::{self, Step};
use crate::subject::Subject;

/// How often a cached build is measured in each round.
const REPEATS: usize = 10;

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    /// With an empty state directory, to a new file.
    pub cold: Build,
    /// The same by others.
    pub peers: Vec<Step>,
    /// The same again with everything cached.
    pub cached: Cached,
    /// From the cache to another new file.
    pub handed_out: Build,
    /// With a small layer on top that is new, to a new file.
    pub changed: Build,
}

/// What a build with everything cached costs, each measured [`REPEATS`] times.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// `microagent version`: what is paid for a process.
    pub process: Vec<Cost>,
    /// By tag, with `--out` onto the file that the cold build wrote.
    pub tag_out: Vec<Cost>,
    /// By tag, without `--out`.
    pub tag: Vec<Cost>,
    /// By digest, with `--out` onto that file.
    pub digest_out: Vec<Cost>,
    /// By digest, without `--out`.
    pub digest: Vec<Cost>,
}

impl Round {
    /// What the peers took together, in milliseconds.
    pub fn peers_millis(&self) -> f64 {
        self.peers.iter().map(|step| step.cost.wall_millis).sum()
    }
}

/// Measures `count` rounds; everything is made below `work`.
///
/// # Errors
/// When a build fails, or is not what it should be.
pub fn rounds(
    microagent: &Microagent,
    subject: &Subject,
    work: &Path,
    count: usize,
    say: &dyn Fn(&str),
) -> Result<Vec<Round>, Error> {
    // The registry's files are in the page cache from now on, for everybody. It also tells the
    // size that the peers' file system is to have.
    say("warming up");
    let warm = tempfile::tempdir_in(work).map_err(Error::file(work))?;
    let (first, _) = microagent.build(&warm.path().join("state"), &subject.base(), None)?;
    drop(warm);
    let mut rounds = Vec::new();
    for number in 0..count {
        say(&format!("round {} of {count}", number + 1));
        let directory = tempfile::tempdir_in(work).map_err(Error::file(work))?;
        let round = round(microagent, subject, directory.path(), first.size, number)?;
        expect(round.cold.digest == first.digest, "cold", || {
            format!("{} is not {}", round.cold.digest, first.digest)
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
    // Who is first has the quieter disk, or the busier one.
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
        format!(
            "its {} node was there already",
            found.map_or("", |node| &node.op)
        )
    })?;
    for op in ["fetch", "unpack", "rootfs"] {
        expect(build.count(op, false) > 0, "cold", || {
            format!("it has no {op} node")
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
        format!("its {} node was computed", done.map_or("", |node| &node.op))
    })?;
    expect(build.digest == cold.digest, "cached", || {
        format!("{} is not {}", build.digest, cold.digest)
    })
}

fn check_changed(build: &Build, cold: &Build) -> Result<(), Error> {
    for op in ["fetch", "unpack", "rootfs"] {
        let computed = build.count(op, false);
        expect(computed == 1, "changed", || {
            format!("{computed} {op} nodes were computed")
        })?;
    }
    expect(build.digest != cold.digest, "changed", || {
        "nothing has changed".into()
    })
}

fn expect(truth: bool, build: &'static str, why: impl FnOnce() -> String) -> Result<(), Error> {
    match truth {
        true => Ok(()),
        false => Err(Error::NotMeasured { build, why: why() }),
    }
}
