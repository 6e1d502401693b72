//! Workspaces while processes are killed, the disk is full or read-only, and the clock jumps: a walk
//! at random (`microagent_tests::chaos`), on engine `qemu` here and on `kvm` in the lab.
//!
//! What it does follows from a seed, which is printed and can be set with `$MICROAGENT_TEST_SEED`. In
//! a soak, the walks last as long as asked for, or have as many rounds.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;
use microagent_tests::{Error, binaries, built_kernel, or_skip, root_or_skip, soak, tool};

/// Rounds in the suite, and how many faults each has for certain: together, all of them.
const ROUNDS: (u64, u64) = (4, 2);
/// The same in the lab, where a boot takes several times as long.
const LAB_ROUNDS: (u64, u64) = (2, 4);
/// Rounds in a soak whose number is not given, at most.
const MANY: u64 = 100_000;

/// A time that a round does not take here, and in the lab.
const LONGEST: (Duration, Duration) = (Duration::from_secs(100), Duration::from_secs(300));

/// What must have happened at least once, in the words of the program.
const FAULTS: [&str; 6] = [
    "killed commands",
    "killed shims",
    "killed supervisors",
    "killed children",
    "full disks",
    "read-only disks",
];

/// The state directory gets a file system of its own, without blocks that only root may use.
const WALK: &str = r#"set -e
    truncate -s 1500M disk; mke2fs -q -t ext4 -m 0 disk; mkdir own; mount -o loop disk own
    cp -a "$MICROAGENT_STATE_DIR/." own; rm -r own/lost+found
    export MICROAGENT_STATE_DIR=$PWD/own MICROAGENT_ENGINE=qemu
    exec "$CHAOS" --own-file-system --qemu "$@""#;

/// The same in the lab, whose clock is set as well.
const LAB_WALK: &str = r#"mkdir own; mount -t tmpfs -o size=800m own own; cp -a /state/. own
    export MICROAGENT_STATE_DIR=$PWD/own MICROAGENT_ENGINE=kvm IMAGE=oci:/layout:latest
    chaos --own-file-system --own-clock"#;

/// The arguments of the walk that say how long it is, and how long it may take.
fn extent((rounds, faults): (u64, u64), longest: Duration) -> (Vec<String>, Duration) {
    let count = soak::given_rounds();
    let (rounds, end) = match (count, soak::duration()) {
        (Some(count), _) => (count, None),
        (None, Some(duration)) => (MANY, Some(duration)),
        (None, None) => (rounds, None),
    };
    let mut arguments = vec![format!("--rounds={rounds}"), format!("--faults={faults}")];
    arguments.extend(end.map(|end| format!("--seconds={}", end.as_secs())));
    let seed = std::env::var("MICROAGENT_TEST_SEED").ok();
    arguments.extend(seed.map(|seed| format!("--seed={seed}")));
    let few = u32::try_from(rounds).unwrap_or(u32::MAX);
    let limit = end.map_or_else(|| longest * few, |end| end + 4 * longest);
    (arguments, limit)
}

/// Checks that the walk, whose last line is a tally, has met all faults.
#[track_caller]
fn assert_all_happened(text: &str, others: &[&str]) {
    let tally = text.lines().last().unwrap_or_default();
    for fault in FAULTS.iter().chain(others) {
        let mut entries = tally.split([',', ':']).map(str::trim);
        let times = entries.find_map(|entry| entry.strip_prefix(fault)?.trim().parse::<u64>().ok());
        assert!(times.is_some_and(|times| times > 0), "{fault}: {tally}");
    }
}

#[test]
fn a_walk_at_random_with_faults_finds_everything_true_on_qemu() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let (arguments, limit) = extent(ROUNDS, LONGEST.0);
    let mut walk = host.shell_with_mounts(WALK);
    walk.argument("walk");
    for argument in arguments {
        walk.argument(argument);
    }
    walk.variable("IMAGE", layout.reference("latest"))
        .variable("CHAOS", binaries::of_this_crate("chaos"))
        .deadline(limit);
    let finished = walk.finish();
    println!("{}", finished.text());
    assert_eq!(
        finished.code,
        Some(0),
        "{}{}",
        finished.text(),
        finished.errors()
    );
    assert_all_happened(&finished.text(), &["killed QEMUs"]);
    host.assert_clean();
}

fn lab(host: &Host, layout: &Layout, limit: Duration) -> Result<Lab, Error> {
    let mut lab = Lab::with_machine(Machine {
        deadline: limit + Duration::from_secs(100),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.program(binaries::of_this_crate("chaos"), "/usr/bin/chaos")?;
    lab.directory(&host.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    Ok(lab)
}

#[test]
fn a_walk_at_random_with_faults_finds_everything_true_on_kvm() {
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let (arguments, limit) = extent(LAB_ROUNDS, LONGEST.1);
    let mut lab = or_skip!(lab(&host, &layout, limit));
    lab.step(
        "walk",
        &format!("{LAB_WALK} {}", arguments.join(" ")),
        u32::try_from(limit.as_secs()).unwrap_or(u32::MAX),
    );
    let report = or_skip!(lab.boot());
    let step = report.step("walk");
    println!("{:?}: {}", step.elapsed, step.text());
    assert_eq!(step.code, 0, "{}{}", step.text(), step.errors());
    assert_all_happened(&step.text(), &["clock jumps"]);
}
