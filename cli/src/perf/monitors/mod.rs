//! Comparison of our monitor with others: the same kernel and initramfs, in alternation. Each time
//! runs from the spawn of the monitor until its caller sees the end of the guest.
//!
//! There are two guests. One boots the kernel to userspace, where an argument on the kernel command
//! line makes the agent reset immediately. The other has no kernel and no initramfs
//! ([`reset_stub`]): it resets at its first instruction.

mod guest;
mod ours;
mod peers;
mod reset_stub;

use microagent_pipeline::ErrorKind;
use serde::Serialize;

use super::iteration::wait_for_children;
use super::statistics::Summary;
use crate::failure::Failure;
pub use guest::Guest;
pub use ours::Ours;
use peers::Peer;

/// The times of one monitor.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    /// Name and version.
    pub name: String,
    /// A guest that boots to userspace and resets.
    pub userspace: Option<Times>,
    /// A guest that resets at its first instruction.
    #[serde(rename = "nothing")]
    pub first_instruction: Option<Times>,
}

/// The time of one guest under one monitor.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Time in milliseconds.
    pub millis: Summary,
    /// Our time divided by this one, as the median of the per-turn ratios; `None` for ours.
    pub ours_divided_by_this: Option<f64>,
}

/// Boots both guests with every monitor in alternation, `iterations` times after one warm-up turn.
/// Peers that are not installed or cannot run the guest are skipped; `notice` gets the reason.
///
/// # Errors
/// When our monitor fails.
pub fn compare(
    ours: &Ours<'_>,
    guest: &Guest,
    iterations: u32,
    mut notice: impl FnMut(&str),
) -> Result<Vec<Monitor>, Failure> {
    let stub = ours.run_dir.join("reset-stub.elf");
    std::fs::write(&stub, reset_stub::elf())
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    let first_instruction = Guest {
        kernel: stub,
        initramfs: None,
        ..guest.clone()
    };
    let peers = Peer::installed(ours.engine, ours.run_dir);
    let userspace = turns(ours, guest, &peers, iterations, &mut notice)?;
    let first_instruction = turns(ours, &first_instruction, &peers, iterations, &mut notice)?;
    let names =
        std::iter::once("microagent".to_owned()).chain(peers.iter().map(|peer| peer.name.clone()));
    Ok(names
        .zip(userspace)
        .zip(first_instruction)
        .map(|((name, userspace), first_instruction)| Monitor {
            name,
            userspace,
            first_instruction,
        })
        .collect())
}

/// The times of our monitor and of each peer, in this order.
fn turns(
    ours: &Ours<'_>,
    guest: &Guest,
    peers: &[Peer],
    iterations: u32,
    notice: &mut impl FnMut(&str),
) -> Result<Vec<Option<Times>>, Failure> {
    let mut own = Vec::new();
    let mut others: Vec<Option<Vec<f64>>> = vec![Some(Vec::new()); peers.len()];
    for turn in 0..=iterations {
        // The first turn warms the page cache.
        let counts = turn > 0;
        let millis = ours.boot(guest)?;
        wait_for_children();
        if counts {
            own.push(millis);
        }
        for (peer, times) in peers.iter().zip(&mut others) {
            let Some(list) = times else { continue };
            match peer.boot(guest) {
                Ok(millis) if counts => list.push(millis),
                Ok(_) => {}
                Err(why) => {
                    notice(&format!("skipping {}: {why}", peer.name));
                    *times = None;
                }
            }
        }
    }
    let first = Summary::of(own.iter().copied()).map(|millis| Times {
        millis,
        ours_divided_by_this: None,
    });
    let rest = others.iter().map(|times| {
        let list = times.as_ref()?;
        Some(Times {
            millis: Summary::of(list.iter().copied())?,
            ours_divided_by_this: median_ratio(&own, list),
        })
    });
    Ok(std::iter::once(first).chain(rest).collect())
}

/// The median of the per-turn ratios. A temporary slowdown of the host affects both times of a turn
/// alike; a ratio of medians would compare different turns.
fn median_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
    Summary::of(ratios).map(|summary| summary.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_is_slow_for_both_does_not_change_the_ratio() {
        let (ours, theirs) = ([10.0, 30.0, 200.0], [20.0, 60.0, 40.0]);
        // The ratio of the medians would be 0.75.
        assert_eq!(median_ratio(&ours, &theirs), Some(0.5));
        assert_eq!(median_ratio(&[], &[]), None);
    }
}
