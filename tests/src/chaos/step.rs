//! What a round does to a workspace.

use std::time::Duration;

use super::process::Victim;
use super::product::{Disturbance, Done, unexpected};
use super::workspace::{DIRECTORY, Workspace};
use super::{NAMES, Walk};
use crate::Error;

/// What is done to a workspace.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Start,
    Write,
    Rewrite,
    Remove,
    CopyIn,
    Children,
    Pause,
    Stop,
    Halt,
    Kill,
    Clone,
    Delete,
    Full,
    ReadOnly,
    Clock,
}

/// In the proportion in which they are chosen. Those that a workspace's state does not admit start or
/// stop it instead.
const VERBS: [Verb; 28] = [
    Verb::Start,
    Verb::Start,
    Verb::Write,
    Verb::Write,
    Verb::Write,
    Verb::Write,
    Verb::Write,
    Verb::Rewrite,
    Verb::Rewrite,
    Verb::Remove,
    Verb::Remove,
    Verb::CopyIn,
    Verb::CopyIn,
    Verb::Children,
    Verb::Children,
    Verb::Pause,
    Verb::Pause,
    Verb::Stop,
    Verb::Stop,
    Verb::Halt,
    Verb::Kill,
    Verb::Clone,
    Verb::Clone,
    Verb::Delete,
    Verb::Full,
    Verb::Full,
    Verb::ReadOnly,
    Verb::Clock,
];

/// The percentage of commands during which something is killed.
const DISTURBED: u64 = 45;

/// The longest delay of a disturbance, in milliseconds: half of the time, little more than a command
/// takes that does not boot.
const DELAYS: [u64; 2] = [60, 2500];

impl Walk {
    /// Does a few things to the workspace `name`, which is created if it does not exist.
    pub(super) fn steps(&mut self, name: &'static str) -> Result<(), Error> {
        if !self.workspaces.contains_key(name) {
            self.create(name)?;
        }
        for _ in 0..2 + self.numbers.below(3) {
            if self.workspaces.contains_key(name) {
                let verb = *self.numbers.pick(&VERBS);
                self.step(name, verb)?;
            }
        }
        Ok(())
    }

    /// A disturbance of a command that comes now; often none. Drawn in any case, so that what follows
    /// does not depend on it.
    fn disturbance(&mut self) -> Option<Disturbance> {
        let happens = self.numbers.percent(DISTURBED);
        let victims = [
            Victim::Command,
            Victim::Shim,
            Victim::Supervisor,
            Victim::Qemu,
        ];
        let victim = *self.numbers.pick(&victims);
        let longest = *self.numbers.pick(&DELAYS);
        let delay = Duration::from_millis(self.numbers.below(longest));
        happens.then_some(Disturbance { victim, delay })
    }

    fn step(&mut self, name: &'static str, verb: Verb) -> Result<(), Error> {
        let state = self.state(name)?.unwrap_or_default();
        let running = state == "running";
        match verb {
            Verb::Write | Verb::Rewrite | Verb::Remove | Verb::CopyIn | Verb::Children
                if running =>
            {
                self.inside(name, verb)
            }
            Verb::Pause if running => {
                self.verb(name, "pause")?;
                self.verb(name, "resume").map(drop)
            }
            Verb::Stop if running => self.shut_down(name, "stop"),
            Verb::Halt if running => self.shut_down(name, "halt"),
            Verb::Kill if running => {
                self.workspace(name).clean = false;
                self.verb(name, "kill").map(drop)
            }
            Verb::Clone if !is_live(&state) => self.clone_of(name),
            Verb::Delete => self.delete(name),
            Verb::Full if self.options.surroundings.own_file_system => self.full(name, running),
            Verb::ReadOnly if self.options.surroundings.own_file_system => self.read_only(name),
            Verb::Clock if self.options.surroundings.own_clock => self.clock(),
            _ if running => self.inside(name, Verb::Write),
            _ if is_live(&state) => Ok(()),
            _ => {
                self.workspace(name).clean = false;
                self.verb(name, "start").map(drop)
            }
        }
    }

    /// What is known of the workspace `name`, which exists.
    pub(super) fn workspace(&mut self, name: &'static str) -> &mut Workspace {
        self.workspaces.entry(name).or_default()
    }

    /// Runs a command that has no other argument than the name, possibly disturbed.
    fn verb(&mut self, name: &'static str, verb: &'static str) -> Result<Done, Error> {
        self.count(verb);
        let disturbance = self.disturbance();
        let done = self
            .product
            .run_disturbed([verb, name], disturbance, name)?;
        if done.disturbed {
            self.count("kills");
            return Ok(done);
        }
        // Something was killed by the command before, and the guest may have been damaged by a full
        // disk; but then the state is another one.
        let state = self.state(name)?.unwrap_or_default();
        match done.succeeded() || !is_live(&state) || state != "running" {
            true => Ok(done),
            false => Err(unexpected("a command failed", done.describe())),
        }
    }

    fn shut_down(&mut self, name: &'static str, verb: &'static str) -> Result<(), Error> {
        let done = self.verb(name, verb)?;
        let state = self.state(name)?.unwrap_or_default();
        self.workspace(name).clean =
            done.succeeded() && matches!(state.as_str(), "stopped" | "halted");
        Ok(())
    }

    pub(super) fn create(&mut self, name: &'static str) -> Result<(), Error> {
        self.count("create");
        let image = self.options.image.clone();
        let words = [
            "create", name, "--image", &image, "--memory", "128", "--cpus", "1",
        ];
        let disturbance = (self.disturbance()).filter(|it| it.victim == Victim::Command);
        let done = self.product.run_disturbed(words, disturbance, name)?;
        match (done.succeeded(), done.disturbed) {
            (false, true) => {
                self.count("kills");
                if self.state(name)?.is_none() {
                    self.product.run(words)?.expect_success()?;
                }
            }
            (false, false) => return Err(unexpected("create failed", done.describe())),
            (true, _) => {}
        }
        self.workspaces.insert(name, Workspace::default());
        Ok(())
    }

    /// Something in the guest that is flushed.
    pub(super) fn inside(&mut self, name: &'static str, verb: Verb) -> Result<(), Error> {
        self.files += 1;
        let new = format!("f{}", self.files);
        let known: Vec<String> = self.workspace(name).files.keys().cloned().collect();
        // Drawn in any case.
        let chosen = self.numbers.below(1 << 32);
        let blocks = 1 + self.numbers.below(64);
        let old = (!known.is_empty()).then(|| known[chosen as usize % known.len()].clone());
        match (verb, old) {
            (Verb::Rewrite, Some(file)) => {
                self.workspace(name).forget(&file);
                let options = "conv=notrunc,fsync seek=1";
                self.flushed_write(name, &file, blocks, options)
            }
            (Verb::Remove, Some(file)) => {
                self.workspace(name).forget(&file);
                let script = format!("rm {DIRECTORY}/{file} && sync && echo flushed");
                if self
                    .exec(name, &script)?
                    .is_some_and(|text| text == "flushed\n")
                {
                    self.workspace(name).removed.insert(file);
                }
                Ok(())
            }
            (Verb::CopyIn, _) => self.copy_in(name, &new, blocks),
            (Verb::Children, _) => self.kill_children(name),
            _ => self.flushed_write(name, &new, blocks, "conv=fsync"),
        }
    }

    fn flushed_write(
        &mut self,
        name: &'static str,
        file: &str,
        blocks: u64,
        options: &str,
    ) -> Result<(), Error> {
        let path = format!("{DIRECTORY}/{file}");
        let script = format!(
            "mkdir -p {DIRECTORY} && dd if=/dev/urandom of={path} bs=4k count={blocks} {options} \
             2>/dev/null && sha256sum <{path}"
        );
        if let Some(text) = self.exec(name, &script)?
            && let Some((sum, _)) = text.split_once(' ')
        {
            self.count("flushed writes");
            self.workspace(name)
                .files
                .insert(file.to_owned(), sum.to_owned());
        }
        Ok(())
    }

    fn copy_in(&mut self, name: &'static str, file: &str, blocks: u64) -> Result<(), Error> {
        self.count("cp");
        let mut content = Vec::new();
        for _ in 0..blocks * 512 {
            content.extend(self.numbers.draw().to_le_bytes());
        }
        let path = self.product.write("content", &content)?;
        let path = path.display().to_string();
        let to = format!("{name}:{DIRECTORY}/{file}");
        self.exec(name, &format!("mkdir -p {DIRECTORY}"))?;
        let disturbance = self.disturbance();
        let done = self
            .product
            .run_disturbed(["cp", &path, &to], disturbance, name)?;
        if done.disturbed {
            self.count("kills");
        }
        if done.succeeded() && self.exec(name, "sync && echo flushed")?.is_some() {
            let sum = crate::tree::sha256(&mut &content[..]).map_err(Error::file("content"))?;
            self.workspace(name).files.insert(file.to_owned(), sum);
        }
        Ok(())
    }

    /// Kills a command from another one.
    fn kill_children(&mut self, name: &'static str) -> Result<(), Error> {
        let script = "sleep 7777 & sleep 7777 & killall -9 sleep; wait; echo gone";
        self.exec(name, script).map(drop)
    }

    /// Runs a shell script in a workspace that was running; its output if it succeeded.
    pub(super) fn exec(
        &mut self,
        name: &'static str,
        script: &str,
    ) -> Result<Option<String>, Error> {
        self.count("exec");
        let disturbance = self.disturbance();
        let words = ["exec", name, "--", "sh", "-c", script];
        let done = self.product.run_disturbed(words, disturbance, name)?;
        if done.disturbed {
            self.count("kills");
        }
        Ok(done.succeeded().then_some(done.stdout))
    }

    fn clone_of(&mut self, name: &'static str) -> Result<(), Error> {
        self.count("clone");
        let index = NAMES
            .iter()
            .position(|other| *other == name)
            .unwrap_or_default();
        let other = NAMES[(index + 1) % NAMES.len()];
        self.delete(other)?;
        let disturbance = (self.disturbance()).filter(|it| it.victim == Victim::Command);
        let words = ["clone", name, other];
        let done = self.product.run_disturbed(words, disturbance, name)?;
        if done.disturbed {
            self.count("kills");
        } else if !done.succeeded() {
            return Err(unexpected("clone failed", done.describe()));
        }
        if self.state(other)?.is_some() {
            let copy = Workspace {
                run_dirs: Default::default(),
                ..self.workspace(name).clone()
            };
            self.workspaces.insert(other, copy);
        } else if done.succeeded() {
            return Err(unexpected("the clone is missing", done.describe()));
        }
        Ok(())
    }

    /// Deletes a workspace whatever its state is.
    pub(super) fn delete(&mut self, name: &'static str) -> Result<(), Error> {
        self.count("delete");
        let disturbance = self.disturbance();
        let words = ["delete", "--force", name];
        let done = self.product.run_disturbed(words, disturbance, name)?;
        if done.disturbed {
            self.count("kills");
        }
        if !done.succeeded() {
            if !done.disturbed {
                return Err(unexpected("delete failed", done.describe()));
            }
            self.product.run(words)?.expect_success()?;
        }
        self.check_deleted(name)
    }
}

/// Whether a workspace in this state has a VM.
pub fn is_live(state: &str) -> bool {
    matches!(
        state,
        "starting" | "running" | "paused" | "stopping" | "quarantined"
    )
}
