//! Background programs whose lifetime is bound to the test.
//!
//! A [`ScopedProcess`] is killed on drop, and also when the test process dies without running
//! destructors: a helper shell waits for EOF on a pipe that only the test process holds. (The
//! parent-death signal is not suitable: it fires when the *thread* that started the program exits,
//! and tests are threads.)

use std::io;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use crate::Error;

/// Starts the program in its arguments, kills it at EOF on standard input, and exits with its
/// status.
const WATCH: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
program=$!
( read -r _ <&3; kill -KILL $program ) >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait $program
status=$?
kill $watcher 2>/dev/null
exit $status
"#;

/// A running program, killed on drop.
#[derive(Debug)]
pub struct ScopedProcess {
    child: Child,
}

impl ScopedProcess {
    /// Starts `command` with an empty standard input. A piped output must be read, with
    /// [`ScopedProcess::stdout`] or [`ScopedProcess::stderr`].
    pub fn start(command: &Command, stdout: Stdio, stderr: Stdio) -> Result<ScopedProcess, Error> {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", WATCH, "guard"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            shell.current_dir(directory);
        }
        let child = shell.spawn().map_err(Error::file("/bin/sh"))?;
        Ok(ScopedProcess { child })
    }

    /// Takes the program's standard output, if it was piped and not taken yet.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Takes the program's standard error, if it was piped and not taken yet.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for the program to exit by itself.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        // `Child::wait` closes standard input first, which would kill the program.
        let pipe = self.child.stdin.take();
        let status = self.child.wait();
        drop(pipe);
        status
    }

    /// Kills the program and waits for its exit.
    pub fn kill(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for ScopedProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn dropping_kills_the_program() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$; exec sleep 1000"]);
        let mut process = ScopedProcess::start(&command, Stdio::piped(), Stdio::null()).unwrap();
        let mut stdout = process.stdout().unwrap();
        let mut pid = String::new();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            pid.push(char::from(byte[0]));
        }
        let path = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
        assert!(path.exists());
        drop(process);
        assert!(!path.exists());
    }

    #[test]
    fn wait_returns_the_exit_status_of_the_program() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        let process = ScopedProcess::start(&command, Stdio::null(), Stdio::null()).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(7));
    }
}
