//! What a round suffers for certain, whatever its steps are.
//!
//! The steps of a round are chosen at random, and what is killed during them may have ended already.
//! So that few rounds suffice to meet everything once, each has some of [`FAULTS`], in turn.

use std::thread;
use std::time::{Duration, Instant};

use super::check::{GRACE, INTERVAL};
use super::host::{Full, Surroundings, remount, shift_clock};
use super::process::{Victim, of_workspace};
use super::product::{Disturbance, unexpected};
use super::step::{Verb, is_live};
use super::workspace::DIRECTORY;
use super::{NAMES, Walk};
use crate::Error;

/// What happens to a running workspace, or to the host below.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// This is killed while a command of the guest runs.
    Kill(Victim),
    /// In the guest, processes that its agent has started are killed.
    Children,
    /// The disk is full.
    Full,
    /// The disk is read-only.
    ReadOnly,
    /// The clock jumps.
    Clock,
}

/// All of them, in the order in which rounds have them.
const FAULTS: [Fault; 8] = [
    Fault::Kill(Victim::Command),
    Fault::Kill(Victim::Supervisor),
    Fault::Children,
    Fault::Full,
    Fault::Clock,
    Fault::Kill(Victim::Shim),
    Fault::ReadOnly,
    Fault::Kill(Victim::Qemu),
];

/// How many there are.
pub const KINDS: u64 = FAULTS.len() as u64;

/// The longest time that a command of the guest runs before something is killed, in milliseconds.
const DELAY: u64 = 700;

impl Fault {
    /// Whether it can happen there.
    fn is_possible(self, surroundings: Surroundings) -> bool {
        match self {
            Fault::Kill(Victim::Qemu) => surroundings.qemu,
            Fault::Full | Fault::ReadOnly => surroundings.own_file_system,
            Fault::Clock => surroundings.own_clock,
            Fault::Kill(_) | Fault::Children => true,
        }
    }
}

/// The faults of a round, `count` of those that are possible.
fn of_round(surroundings: Surroundings, count: u64, round: u64) -> Vec<Fault> {
    let mut possible = FAULTS.to_vec();
    possible.retain(|fault| fault.is_possible(surroundings));
    let turn = |index: u64| usize::try_from(index).unwrap_or_default() % possible.len();
    (round * count..(round + 1) * count)
        .map(|index| possible[turn(index)])
        .collect()
}

impl Walk {
    /// Lets the faults of a round happen to the workspace `name`.
    pub(super) fn faults(&mut self, name: &'static str, round: u64) -> Result<(), Error> {
        for fault in of_round(self.options.surroundings, self.options.faults, round) {
            match fault {
                Fault::Kill(victim) => self.kill_during_exec(name, victim)?,
                Fault::Children => {
                    self.running(name)?;
                    self.children(name)?;
                }
                Fault::Full => {
                    self.running(name)?;
                    self.full(name, true)?;
                }
                Fault::ReadOnly => {
                    if !self.workspaces.contains_key(name) {
                        self.create(name)?;
                    }
                    self.read_only(name)?;
                }
                Fault::Clock => self.clock()?,
            }
        }
        Ok(())
    }

    /// Makes it run, whatever the steps have left.
    fn running(&mut self, name: &'static str) -> Result<(), Error> {
        if !self.workspaces.contains_key(name) {
            self.create(name)?;
        }
        let verb = match &*self.true_state(name)? {
            "running" => return Ok(()),
            "paused" => "resume",
            _ => "start",
        };
        self.workspace(name).clean = false;
        self.product.run([verb, name])?.expect_success().map(drop)
    }

    /// Kills `victim` while a command in the guest has written something and goes on.
    fn kill_during_exec(&mut self, name: &'static str, victim: Victim) -> Result<(), Error> {
        self.running(name)?;
        let (what, survives) = match victim {
            Victim::Command => ("killed commands", true),
            Victim::Shim => ("killed shims", false),
            Victim::Supervisor => ("killed supervisors", false),
            Victim::Qemu => ("killed QEMUs", false),
        };
        self.count(what);
        let delay = Duration::from_millis(self.numbers.below(DELAY));
        let script = format!("mkdir -p {DIRECTORY}; echo x >{DIRECTORY}/x; exec sleep 6666");
        let words = ["exec", name, "--", "sh", "-c", &script];
        let disturbance = Some(Disturbance { victim, delay });
        if !survives {
            self.workspace(name).clean = false;
        }
        let done = self.product.run_disturbed(words, disturbance, name)?;
        if !done.disturbed {
            return Err(unexpected("nothing was killed", done.describe()));
        }
        let state = match survives {
            true => self.true_state(name)?,
            false => self.true_state_after(name, "running")?,
        };
        match (&*state, survives) {
            ("running", true) | ("failed", false) => Ok(()),
            _ => Err(unexpected(what, format!("{state}: {}", done.describe()))),
        }
    }

    /// Commands in the guest are killed by others and by themselves.
    fn children(&mut self, name: &'static str) -> Result<(), Error> {
        self.count("killed children");
        let detached = ["exec", "-d", name, "--", "sleep", "7777"];
        self.product.run(detached)?.expect_success()?;
        let script = "until killall -9 sleep 2>/dev/null; do :; done; kill -9 $$";
        let done = self.product.run(["exec", name, "--", "sh", "-c", script])?;
        if done.code != Some(128 + 9) {
            return Err(unexpected("a killed command", done.describe()));
        }
        let script = "while pidof sleep >/dev/null; do :; done; echo gone";
        let done = self.product.run(["exec", name, "--", "sh", "-c", script])?;
        match done.expect_success()?.stdout.ends_with("gone\n") {
            true => Ok(()),
            false => Err(unexpected("a command survives", name)),
        }
    }

    /// The host's clock jumps, by some days at most.
    pub(super) fn clock(&mut self) -> Result<(), Error> {
        let days = self.numbers.below(20).cast_signed() - 10;
        let seconds = days * 86_400 + self.numbers.below(1000).cast_signed();
        self.product.note(format!("the clock jumps by {seconds} s"));
        self.count("clock jumps");
        shift_clock(seconds)
    }

    /// The disk is full while the guest writes; what must work then works.
    pub(super) fn full(&mut self, name: &'static str, running: bool) -> Result<(), Error> {
        self.count("full disks");
        self.product.note("the disk is full");
        let full = Full::fill(self.product.state())?;
        if running {
            self.workspace(name).clean = false;
            self.inside(name, Verb::Write)?;
        }
        let state = self.state(name)?;
        let delete = self.numbers.percent(30);
        if delete {
            self.delete(name)?;
        } else if state.is_some_and(|state| !is_live(&state)) {
            // It may work, and must not if it cannot be recorded.
            self.product.run(["start", name])?;
            self.workspace(name).clean = false;
        }
        drop(full);
        self.product.note("the disk is not full any more");
        Ok(())
    }

    /// The state directory is read-only: nothing changes, and everything says so.
    pub(super) fn read_only(&mut self, name: &'static str) -> Result<(), Error> {
        let state = self.product.state().to_owned();
        // Not possible while a VM writes.
        for other in NAMES {
            if self.state(other)?.is_some_and(|state| is_live(&state)) {
                self.workspace(other).clean = false;
                self.product.run(["kill", other])?;
            }
        }
        let deadline = Instant::now() + GRACE;
        while !remount(&state, "ro")? {
            if Instant::now() > deadline {
                let holders: Vec<_> = NAMES
                    .iter()
                    .flat_map(|other| of_workspace(&self.product.workspace(other), Victim::Shim))
                    .collect();
                return Err(unexpected("the disk is busy", format!("{holders:?}")));
            }
            thread::sleep(INTERVAL);
        }
        self.count("read-only disks");
        self.product.note("the disk is read-only");
        let before = self.state(name)?;
        let image = self.options.image.clone();
        let attempts: [&[&str]; 4] = [
            &["start", name],
            &["create", "new", "--image", &image],
            &["clone", name, "new"],
            &["delete", name],
        ];
        for words in attempts {
            let done = self.product.run(words)?;
            if done.succeeded() {
                return Err(unexpected("it is read-only", done.describe()));
            }
        }
        let after = self.state(name)?;
        if before != after {
            return Err(unexpected(
                "the state changed",
                format!("{before:?}, {after:?}"),
            ));
        }
        if !remount(&state, "rw")? {
            return Err(unexpected("cannot remount", state.display().to_string()));
        }
        self.product.note("the disk is writable");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_rounds_have_every_fault_that_is_possible() {
        let here = Surroundings {
            own_file_system: true,
            own_clock: false,
            qemu: true,
        };
        let names = |rounds: std::ops::Range<u64>, count| -> Vec<String> {
            rounds
                .flat_map(|round| of_round(here, count, round))
                .map(|fault| format!("{fault:?}"))
                .collect()
        };
        let mut all = names(0..4, 2);
        assert_eq!(all[7], all[0]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 7, "{all:?}");
        assert!(!all.contains(&"Clock".to_owned()));
        assert_eq!(names(5..6, 0), [""; 0]);
    }
}
