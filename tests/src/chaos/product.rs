//! Runs commands of the product, some of which are disturbed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{self, Victim};
use crate::Error;
use crate::microagent::wait_for_process;

/// How long any command may take: several times the boot of a guest in a lab.
const DEADLINE: Duration = Duration::from_secs(180);

/// How long the process that keeps a VM may take to notice that it was killed.
const GRACE: Duration = Duration::from_secs(10);

/// The largest number of lines of an error.
const ERROR_LINES: usize = 2;

/// A disturbance of a command.
#[derive(Debug, Clone, Copy)]
pub struct Disturbance {
    /// What is killed.
    pub victim: Victim,
    /// How long after the command was started, unless it ends before.
    pub delay: Duration,
}

/// The end of a command.
#[derive(Debug)]
pub struct Done {
    /// Its words.
    pub words: String,
    /// Its exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Whether a disturbance killed anything.
    pub disturbed: bool,
}

impl Done {
    /// Whether it succeeded.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// This, if it succeeded.
    ///
    /// # Errors
    /// Names the command.
    pub fn expect_success(self) -> Result<Done, Error> {
        match self.succeeded() {
            true => Ok(self),
            false => Err(unexpected("a command failed", self.describe())),
        }
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> Result<serde_json::Value, Error> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| unexpected("not JSON", format!("{error}: {}", self.describe())))
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let code = match self.code {
            Some(code) => code.to_string(),
            None => "killed".to_owned(),
        };
        let stderr = self.stderr.trim().replace('\n', " / ");
        let stdout: String = self.stdout.trim().chars().take(300).collect();
        format!("{}: {code}; {stdout:?}; {stderr}", self.words)
    }
}

/// A failure of the product.
pub fn unexpected(what: impl Into<String>, got: impl Into<String>) -> Error {
    Error::Unexpected {
        what: what.into(),
        got: got.into(),
    }
}

/// The product, with its state directory.
#[derive(Debug)]
pub struct Product {
    program: PathBuf,
    state: PathBuf,
    work: tempfile::TempDir,
    /// What was done, for the report of a failure.
    log: Vec<String>,
}

impl Product {
    /// The command line `program`, whose settings are in the environment.
    ///
    /// # Errors
    /// When no temporary directory can be created.
    pub fn new(program: PathBuf, state: PathBuf) -> Result<Product, Error> {
        let work = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        Ok(Product {
            program,
            state,
            work,
            log: Vec::new(),
        })
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The directory of a workspace.
    pub fn workspace(&self, name: &str) -> PathBuf {
        self.state.join("workspaces").join(name)
    }

    /// A path for files of the test.
    pub fn work(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Notes what happens.
    pub fn note(&mut self, line: impl Into<String>) {
        self.log.push(line.into());
    }

    /// Forgets what was noted.
    pub fn begin(&mut self) {
        self.log.clear();
    }

    /// What was noted.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it hangs, panics, or its error is not one of this product.
    pub fn run<W: Into<OsString>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<Done, Error> {
        self.run_disturbed(words, None, "")
    }

    /// Runs a command of the workspace `name`, and kills something meanwhile.
    ///
    /// # Errors
    /// As [`Product::run`].
    pub fn run_disturbed<W: Into<OsString>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
        disturbance: Option<Disturbance>,
        name: &str,
    ) -> Result<Done, Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let shown = shown.join(" ").replace('\n', " ");
        // Files, because a pipe would be held by whatever the command starts.
        let (out, err) = (self.work("stdout"), self.work("stderr"));
        let file = |path: &PathBuf| File::create(path).map_err(Error::file(path));
        let mut child = Command::new(&self.program)
            .arg("--quiet")
            .args(&words)
            .stdin(Stdio::null())
            .stdout(file(&out)?)
            .stderr(file(&err)?)
            .spawn()
            .map_err(Error::file(&self.program))?;
        let started = Instant::now();
        let pid = Pid::from_child(&child);
        let (mut killed, mut keepers) = (Vec::new(), Vec::new());
        if let Some(Disturbance { victim, delay }) = disturbance {
            wait_for_process(pid, delay);
            if victim != Victim::Command {
                keepers = process::shims(&self.workspace(name));
            }
            let victims = match victim {
                Victim::Command => vec![pid],
                victim => process::of_workspace(&self.workspace(name), victim),
            };
            for victim in victims {
                // Not reaped yet if it is the command; another one may have ended.
                let _ = kill_process(victim, Signal::KILL);
                killed.push(victim.as_raw_pid());
            }
        }
        wait_for_process(pid, DEADLINE.saturating_sub(started.elapsed()));
        let status = child.try_wait().map_err(Error::file(&self.program))?;
        let read = |path: &PathBuf| fs::read(path).map_err(Error::file(path));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, stderr) = (text(read(&out)?), text(read(&err)?));
        let disturbed = !killed.is_empty();
        let Some(status) = status else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(unexpected(
                "a command hangs",
                format!("{shown}: {stdout} {stderr}"),
            ));
        };
        let done = Done {
            words: shown,
            code: status.code(),
            stdout,
            stderr,
            disturbed,
        };
        let how = match disturbance {
            Some(disturbance) if disturbed => format!(
                " ({:?} killed after {:?})",
                disturbance.victim, disturbance.delay
            ),
            _ => String::new(),
        };
        self.note(format!(
            "{:6.2} s  {}{how}",
            started.elapsed().as_secs_f64(),
            done.describe()
        ));
        check(&done, status.signal())?;
        if disturbed {
            self.wait_for_keepers(&keepers, name)?;
        }
        Ok(done)
    }

    /// Waits for the processes that kept the VM, of which something was killed: until they have
    /// noticed, its state is what it was.
    fn wait_for_keepers(&self, keepers: &[Pid], name: &str) -> Result<(), Error> {
        for &keeper in keepers {
            wait_for_process(keeper, GRACE);
        }
        let left = process::shims(&self.workspace(name));
        match left.iter().find(|pid| keepers.contains(pid)) {
            Some(pid) => Err(unexpected(
                "a killed VM is kept",
                format!("{name}: {pid:?}"),
            )),
            None => Ok(()),
        }
    }

    /// Writes a file of the test.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, Error> {
        let path = self.work(name);
        File::create(&path)
            .and_then(|mut file| file.write_all(content))
            .map_err(Error::file(&path))?;
        Ok(path)
    }
}

/// What holds for every command, whatever happened to it.
fn check(done: &Done, signal: Option<i32>) -> Result<(), Error> {
    if signal.is_some_and(|signal| signal != Signal::KILL.as_raw()) {
        return Err(unexpected("a command crashed", done.describe()));
    }
    let ours = done.stderr.contains("microagent: ") || done.stderr.contains("\"error\"");
    if done.stderr.contains("panicked") || ours && done.stderr.lines().count() > ERROR_LINES {
        return Err(unexpected("a bad error", done.describe()));
    }
    // The codes of a guest's command are its own.
    let of_guest = done.words.starts_with("exec ");
    let failed = !matches!(done.code, None | Some(0));
    if failed && !of_guest && !ours {
        return Err(unexpected("a failure without an error", done.describe()));
    }
    Ok(())
}
