//! What must be true after a round.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::process::{Victim, mentioning, of_workspace, shims};
use super::product::unexpected;
use super::step::is_live;
use super::workspace::{DIRECTORY, checksums};
use super::{NAMES, Walk};
use crate::Error;
use crate::microagent::wait_for_process;

/// How long what was killed may take to be gone, and have files of a disk open.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How often to look meanwhile: neither a process that becomes another's child nor a file that is
/// closed sends an event.
pub(super) const INTERVAL: Duration = Duration::from_millis(10);

impl Walk {
    /// The state of a workspace; `None` if there is none of this name. `list` and `status` agree.
    pub(super) fn state(&mut self, name: &str) -> Result<Option<String>, Error> {
        let listed = self.product.run(["--json", "list"])?.expect_success()?;
        let rows = listed.json()?;
        let row = rows
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["workspace"] == name));
        Ok(row.map(|row| row["state"].as_str().unwrap_or_default().to_owned()))
    }

    /// Waits until the state of a workspace, as `status`, `list` and `ps` tell it, agrees with
    /// `/proc`, and returns it.
    pub(super) fn true_state(&mut self, name: &'static str) -> Result<String, Error> {
        let directory = self.product.workspace(name);
        let deadline = Instant::now() + GRACE;
        loop {
            let before = shims(&directory);
            let status = self.product.run(["--json", "status", name])?;
            let status = status.expect_success()?.json()?;
            let listed = self.state(name)?.unwrap_or_default();
            let ps = self.product.run(["ps"])?.expect_success()?;
            let in_ps = ps
                .stdout
                .lines()
                .any(|line| line.split(' ').next() == Some(name));
            let state = status["state"].as_str().unwrap_or_default().to_owned();
            let live = is_live(&state);
            let settled =
                before == shims(&directory) && !matches!(&*state, "starting" | "stopping");
            let agree = listed == state && in_ps == live && live != before.is_empty();
            if settled && agree {
                if before.len() > 1 {
                    return Err(unexpected("several supervisors", format!("{before:?}")));
                }
                self.note_run_dir(name, &directory);
                return Ok(state);
            }
            if Instant::now() > deadline && (settled || !matches!(&*state, "starting" | "stopping"))
            {
                return Err(unexpected(
                    "the state is not true",
                    format!("status {state}, list {listed}, ps {in_ps}, processes {before:?}"),
                ));
            }
            thread::sleep(INTERVAL);
        }
    }

    fn note_run_dir(&mut self, name: &'static str, directory: &Path) {
        let holder = fs::read(directory.join("lock")).unwrap_or_default();
        let holder: serde_json::Value = serde_json::from_slice(&holder).unwrap_or_default();
        let socket = holder["socket"].as_str().map(PathBuf::from);
        if let Some(run_dir) = socket.as_deref().and_then(Path::parent) {
            self.workspace(name).run_dirs.insert(run_dir.to_owned());
        }
    }

    /// Checks the workspace of this round, and ends it in some way.
    pub(super) fn check(&mut self, name: &'static str) -> Result<(), Error> {
        if !self.workspaces.contains_key(name) {
            return self.check_deleted(name);
        }
        let mut state = self.true_state(name)?;
        if state == "paused" {
            self.product.run(["resume", name])?.expect_success()?;
            state = self.true_state(name)?;
        }
        let cut = self.numbers.percent(60);
        let victim = *self
            .numbers
            .pick(&[Victim::Shim, Victim::Supervisor, Victim::Qemu]);
        if state == "running" {
            let words = ["exec", name, "--", "echo", "alive"];
            let done = self.product.run(words)?.expect_success()?;
            if done.stdout != "alive\n" {
                return Err(unexpected("exec", done.describe()));
            }
            if cut {
                self.cut(name, victim)?;
            } else {
                let done = self.product.run(["stop", name])?.expect_success()?;
                let state = self.true_state(name)?;
                // A guest whose disk was full may have lost data, and says so.
                if !matches!(&*state, "stopped" | "failed") {
                    return Err(unexpected("stop", format!("{state}: {}", done.describe())));
                }
                self.workspace(name).clean = state == "stopped";
            }
        }
        if self.workspace(name).clean {
            self.check_from_outside(name)?;
        }
        self.workspace(name).clean = false;
        self.product.run(["start", name])?.expect_success()?;
        let state = self.true_state(name)?;
        if state != "running" {
            return Err(unexpected("start", state));
        }
        let script = format!("cd {DIRECTORY} 2>/dev/null && sha256sum f*; exit 0");
        let words = ["exec", name, "--", "sh", "-c", &script];
        let done = self.product.run(words)?.expect_success()?;
        self.compare(name, &done.stdout)?;
        match self.numbers.below(4) {
            0 => self.delete(name)?,
            1 => {
                self.product.run(["kill", name])?.expect_success()?;
            }
            _ => {}
        }
        self.count("checks");
        Ok(())
    }

    /// Kills a part of a running workspace, and waits until the rest is gone.
    fn cut(&mut self, name: &'static str, victim: Victim) -> Result<(), Error> {
        self.count("cuts");
        self.workspace(name).clean = false;
        let directory = self.product.workspace(name);
        let mut victims = of_workspace(&directory, victim);
        if victims.is_empty() {
            victims = of_workspace(&directory, Victim::Supervisor);
        }
        self.product
            .note(format!("{victim:?} {victims:?} is killed"));
        for victim in victims {
            let _ = rustix::process::kill_process(victim, rustix::process::Signal::KILL);
        }
        let state = self.true_state_after(name, "running")?;
        match state.as_str() {
            "failed" => Ok(()),
            _ => Err(unexpected("a killed VM", state)),
        }
    }

    /// The state when it is not `former` any more.
    pub(super) fn true_state_after(
        &mut self,
        name: &'static str,
        former: &str,
    ) -> Result<String, Error> {
        let deadline = Instant::now() + GRACE;
        loop {
            let state = self.true_state(name)?;
            if state != former || Instant::now() > deadline {
                return Ok(state);
            }
            thread::sleep(INTERVAL);
        }
    }

    fn compare(&self, name: &'static str, found: &str) -> Result<(), Error> {
        let known = self.workspaces.get(name).cloned().unwrap_or_default();
        match known.difference(&checksums(found)) {
            None => Ok(()),
            Some(wrong) => Err(unexpected("flushed data was lost", wrong)),
        }
    }

    /// The files of a workspace that does not run, read from its disk.
    fn check_from_outside(&mut self, name: &'static str) -> Result<(), Error> {
        if self.workspace(name).files.is_empty() {
            return Ok(());
        }
        self.count("checks from outside");
        let out = self.product.work("outside");
        let _ = fs::remove_dir_all(&out);
        let words = ["cp".into(), format!("{name}:{DIRECTORY}").into()];
        let words = words.into_iter().chain([out.clone().into_os_string()]);
        self.product.run(words)?.expect_success()?;
        let mut found = String::new();
        for entry in fs::read_dir(&out).map_err(Error::file(&out))?.flatten() {
            let mut file = fs::File::open(entry.path()).map_err(Error::file(&out))?;
            let sum = crate::tree::sha256(&mut file).map_err(Error::file(&out))?;
            found += &format!("{sum}  {}\n", entry.file_name().to_string_lossy());
        }
        self.compare(name, &found)
    }

    /// Nothing of a workspace is left after `delete`.
    pub(super) fn check_deleted(&mut self, name: &'static str) -> Result<(), Error> {
        let known = self.workspaces.remove(name).unwrap_or_default();
        if let Some(state) = self.state(name)? {
            return Err(unexpected("deleted", state));
        }
        let directory = self.product.workspace(name);
        if let Some((pid, words)) = gone(|| mentioning(&directory)) {
            return Err(unexpected("a process is left", format!("{pid:?} {words}")));
        }
        match known.run_dirs.into_iter().find(|path| path.exists()) {
            Some(path) => Err(unexpected(
                "a directory is left",
                path.display().to_string(),
            )),
            None => Ok(()),
        }
    }

    /// The state of the others is true, too.
    pub(super) fn check_others(&mut self, name: &'static str) -> Result<(), Error> {
        for other in NAMES {
            if other != name && self.workspaces.contains_key(other) {
                self.true_state(other)?;
            }
        }
        Ok(())
    }

    /// Deletes everything; nothing may be left.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        for name in NAMES {
            self.product
                .run(["delete", "--force", name])?
                .expect_success()?;
            self.check_deleted(name)?;
        }
        let state = self.product.state().to_owned();
        let list = |below: &str| -> Vec<String> {
            let entries = fs::read_dir(state.join(below)).into_iter().flatten();
            let entries = entries.flatten();
            entries
                .map(|entry| format!("{below}/{}", entry.file_name().to_string_lossy()))
                .collect()
        };
        let mut left = [list("workspaces"), list("cas/tmp"), list("run")].concat();
        left.retain(|path| !path.ends_with("/engine.json") && !path.ends_with("/qemu-notice"));
        let mut roots = list("cas/roots");
        roots.retain(|path| path.contains("workspace-"));
        left.extend(roots);
        if let Some((pid, words)) = gone(|| mentioning(&state)) {
            left.push(format!("{pid:?} {words}"));
        }
        if !left.is_empty() {
            return Err(unexpected("left behind", left.join(", ")));
        }
        let verified = self.product.run(["--json", "cache", "verify"])?;
        let problems = verified.expect_success()?.json()?["problems"].clone();
        match problems.as_array().is_some_and(Vec::is_empty) {
            true => Ok(()),
            false => Err(unexpected("the store is damaged", problems.to_string())),
        }
    }
}

/// Waits until `find` finds no process any more, and returns one that stays.
fn gone(
    find: impl Fn() -> Vec<(rustix::process::Pid, String)>,
) -> Option<(rustix::process::Pid, String)> {
    let deadline = Instant::now() + GRACE;
    loop {
        let found = find().into_iter().next()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(found);
        }
        wait_for_process(found.0, left);
    }
}
