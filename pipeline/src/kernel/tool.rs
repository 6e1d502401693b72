//! Running the distribution's own programs: quietly, in the C locale, with nothing on their
//! standard input but what is given.
//!
//! Nothing of them outlives this process. A program whose output is a stream meets the closed pipe;
//! apt, which downloads in silence, is guarded: a shell between us and it waits for its end or for
//! ours, whichever comes first, and kills it in the latter case. (The parent-death signal does not
//! serve: apt changes its effective user on the way, and that clears it.) What the shell guards is a
//! process group of its own, and is killed as a whole: make has compilers below it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::error::KernelError;

/// How much of a program's standard error is kept, from its end, in bytes.
const STDERR_TAIL: usize = 8 << 10;

/// The most a program may print where its whole output is wanted, in bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// Runs its arguments, and kills its process group, itself included, when standard input ends: the
/// other end of that pipe is held by this process and nobody else.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
{ read -r _; kill -s KILL 0; } <&3 3<&- >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$child"
status=$?
kill "$watcher"
exit "$status"
"#;

/// A program to be run.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    what: String,
    command: Command,
}

/// A running program whose output is read as a stream.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    child: Child,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Tool {
    /// `name`, found in `PATH`, to be told `what`: its first arguments.
    pub(crate) fn new(name: &'static str, what: &[&str]) -> Tool {
        Tool::with(name, what, Command::new(name))
    }

    /// The same, for a program that must be killed when this process dies.
    pub(crate) fn guarded(name: &'static str, what: &[&str]) -> Tool {
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "sh", name]).process_group(0);
        let mut tool = Tool::with(name, what, shell);
        tool.command.stdin(Stdio::piped());
        tool
    }

    fn with(name: &'static str, what: &[&str], mut command: Command) -> Tool {
        command.args(what).env("LC_ALL", "C").stdin(Stdio::null());
        Tool {
            name,
            what: format!("{name} {}", what.join(" ")),
            command,
        }
    }

    /// Adds arguments that are not worth naming in messages.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Tool {
        self.command.args(args);
        self
    }

    /// The only variables that it finds in its environment.
    pub(crate) fn only_env<S: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (S, S)>,
    ) -> Tool {
        self.command.env_clear().envs(variables);
        self
    }

    /// The directory to run in.
    pub(crate) fn current_dir(mut self, dir: &std::path::Path) -> Tool {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from its standard input.
    pub(crate) fn stdin(mut self, file: File) -> Tool {
        self.command.stdin(file);
        self
    }

    /// Starts it; its output is to be read to the end, then [`Running::finish`] called.
    pub(crate) fn start(mut self) -> Result<(Running, ChildStdout), KernelError> {
        if !in_path(self.name) {
            return Err(KernelError::NoPackageClient { program: self.name });
        }
        let what = self.what;
        let failed = |source| KernelError::Start {
            program: what.clone(),
            source,
        };
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take();
        let stderr = child
            .stderr
            .take()
            .map(|stderr| std::thread::spawn(move || tail(stderr)));
        let running = Running {
            what: what.clone(),
            child,
            stderr,
        };
        match stdout {
            Some(stdout) => Ok((running, stdout)),
            None => Err(failed(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Runs it to its end and returns what it printed.
    pub(crate) fn output(self) -> Result<Vec<u8>, KernelError> {
        let (running, stdout) = self.start()?;
        let mut output = Vec::new();
        let read = stdout.take(MAX_OUTPUT).read_to_end(&mut output);
        read.map_err(|source| KernelError::Start {
            program: running.what.clone(),
            source,
        })?;
        running.finish()?;
        Ok(output)
    }
}

impl Running {
    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Result<(), KernelError> {
        // `Child::wait` would close the guard's pipe first, which means: kill it.
        let guard = self.child.stdin.take();
        let status = self.child.wait();
        drop(guard);
        let status = status.map_err(|source| KernelError::Start {
            program: self.what.clone(),
            source,
        })?;
        let stderr = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&stderr);
        let detail = last_error(&stderr).unwrap_or_else(|| status.to_string());
        Err(KernelError::Program {
            program: std::mem::take(&mut self.what),
            detail,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not finished: nobody reads its output any more. After `finish` all of it does nothing.
        match self.child.stdin.take() {
            Some(guard) => drop(guard),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

/// The first error in apt's form (`E: …`), else the last line.
fn last_error(stderr: &str) -> Option<String> {
    let lines = || {
        stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let line = lines()
        .find(|line| line.starts_with("E: "))
        .or_else(|| lines().next_back())?;
    Some(line.strip_prefix("E: ").unwrap_or(line).to_owned())
}

fn tail(mut stderr: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stderr.read(&mut buffer) {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * STDERR_TAIL {
            kept.drain(..kept.len() - STDERR_TAIL);
        }
    }
    kept
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_quoted_with_its_error() {
        let script = "echo 'W: x' >&2; echo 'E: no such package' >&2; echo done >&2; exit 100";
        let error = Tool::new("sh", &["-c"])
            .args([script])
            .output()
            .unwrap_err();
        assert_eq!(error.to_string(), "sh -c failed: no such package");
        let error = Tool::new("sh", &["-c"])
            .args(["exit 3"])
            .output()
            .unwrap_err();
        assert_eq!(error.to_string(), "sh -c failed: exit status: 3");
    }

    #[test]
    fn a_guarded_program_ends_as_it_would_alone() {
        let output = Tool::guarded("sh", &["-c"])
            .args(["cat; echo out"])
            .output();
        assert_eq!(output.unwrap(), b"out\n");
        let script = "echo 'E: refused' >&2; exit 100";
        let error = Tool::guarded("sh", &["-c"])
            .args([script])
            .output()
            .unwrap_err();
        assert_eq!(error.to_string(), "sh -c failed: refused");
    }

    #[test]
    fn a_guarded_program_dies_when_nobody_waits_for_it_any_more() {
        // It holds its end of `mark` for as long as it lives.
        let (mut mark, held) = std::io::pipe().unwrap();
        let mut tool = Tool::guarded("sh", &["-c"]).args(["echo started; exec sleep 1000"]);
        tool.command.stderr(held);
        let mut child = tool.command.stdout(Stdio::piped()).spawn().unwrap();
        drop(tool);
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 8]).unwrap();
        drop(child.stdin.take()); // what the kernel does when this process is killed
        // Ends when its last holder is gone. The shell may say "Killed" on it.
        mark.read_to_end(&mut Vec::new()).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Tool::new("no-such-program", &["x"]).output().unwrap_err();
        assert!(matches!(
            error,
            KernelError::NoPackageClient {
                program: "no-such-program"
            }
        ));
    }
}
