//! Runs programs of the distribution in the C locale, with captured output and an empty standard
//! input by default.
//!
//! The programs do not outlive this process. One that streams its output fails on the closed pipe.
//! apt, which downloads without output, runs under a guard: a shell that waits for the exit of apt
//! or of this process and in the latter case kills apt. (The parent-death signal is not suitable:
//! apt changes its effective user, which clears it.) A guarded program runs in its own process
//! group, which is killed as a whole, because make starts compilers.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::error::KernelError;

/// Number of bytes that are kept from the end of a program's standard error.
const STDERR_TAIL: usize = 8 << 10;

/// Maximum size of a program's captured output in bytes.
const MAX_OUTPUT: u64 = 4 << 20;

/// Runs its arguments, and kills its own process group at EOF on standard input. Only this process
/// holds the other end of that pipe.
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
    /// Prepares `name`, found in `PATH`, with `what` as its first arguments, which appear in
    /// messages.
    pub(crate) fn new(name: &'static str, what: &[&str]) -> Tool {
        Tool::with(name, what, Command::new(name))
    }

    /// Like [`Tool::new`], for a program that must be killed when this process dies.
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

    /// Adds arguments that do not appear in messages.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Tool {
        self.command.args(args);
        self
    }

    /// Replaces its environment.
    pub(crate) fn only_env<S: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (S, S)>,
    ) -> Tool {
        self.command.env_clear().envs(variables);
        self
    }

    /// Sets its working directory.
    pub(crate) fn current_dir(mut self, dir: &std::path::Path) -> Tool {
        self.command.current_dir(dir);
        self
    }

    /// Sets its standard input.
    pub(crate) fn stdin(mut self, file: File) -> Tool {
        self.command.stdin(file);
        self
    }

    /// Starts it. The caller must read the output to its end and then call [`Running::finish`].
    pub(crate) fn start(mut self) -> Result<(Running, ChildStdout), KernelError> {
        if !in_path(self.name) {
            return Err(KernelError::ProgramNotFound { program: self.name });
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
        let stderr = child.stderr.take().map(|stderr| {
            std::thread::Builder::new()
                .name("stderr".into())
                .spawn(move || tail(stderr))
        });
        let stderr = match stderr.transpose() {
            Ok(stderr) => stderr,
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(source));
            }
        };
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

    /// Runs it to completion and returns its output.
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
    /// Waits for its exit.
    pub(crate) fn finish(mut self) -> Result<(), KernelError> {
        // `Child::wait` closes the guard's pipe first, which would kill the program.
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
        // Kills a program that was not finished. No effect after `finish`.
        match self.child.stdin.take() {
            Some(guard) => drop(guard),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

/// The first error in apt's format (`E: …`), otherwise the last line.
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

/// `$PATH`; without it, where execvp(3) searches.
pub(crate) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into())
}

fn in_path(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_failed_program_is_reported() {
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
    fn a_guard_does_not_change_the_result_of_a_program() {
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
    fn a_guarded_program_is_killed_when_its_parent_exits() {
        // The program holds one end of this pipe while it runs.
        let (mut alive, held) = std::io::pipe().unwrap();
        let mut tool = Tool::guarded("sh", &["-c"]).args(["echo started; exec sleep 1000"]);
        tool.command.stderr(held);
        let mut child = tool.command.stdout(Stdio::piped()).spawn().unwrap();
        drop(tool);
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 8]).unwrap();
        drop(child.stdin.take()); // as the kernel does when this process is killed
        // Returns when the last holder has exited. The shell may write "Killed" to it.
        alive.read_to_end(&mut Vec::new()).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_missing_program_is_reported() {
        let error = Tool::new("no-such-program", &["x"]).output().unwrap_err();
        assert!(matches!(
            error,
            KernelError::ProgramNotFound {
                program: "no-such-program"
            }
        ));
    }
}
