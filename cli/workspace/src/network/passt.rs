//! Mode `user`: `passt` passes the guest's connections on as its own. It runs without privileges,
//! and ends when the other end of its socket is closed.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use microagent_proto::control::NET_MTU;
use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::addresses::{USER_V4, USER_V4_PREFIX, USER_V6};
use super::error::NetworkError;

/// The program's name.
const PROGRAM: &str = "passt";

/// The send buffer of the socket, in bytes: `passt` drops what finds no room, also what the guest needs to
/// go on, such as acknowledgments. It has room for the receive windows of some connections.
const SEND_BUFFER: usize = 8 << 20;

/// How much of its standard error is kept, in bytes.
const STDERR_TAIL: usize = 4 << 10;

/// What it says of itself without a reason.
const NOT_A_REASON: [&str; 2] = ["Don't run as root", "Failed to send "];

/// A running `passt`. Dropping it kills it.
#[derive(Debug)]
pub struct Passt {
    child: Child,
    killer: PasstKiller,
}

/// Kills one `passt` from any thread.
#[derive(Debug, Clone)]
pub struct PasstKiller(Arc<OwnedFd>);

impl PasstKiller {
    /// Kills it without waiting. No effect if it has already ended.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }
}

impl Passt {
    /// Starts it; returns it with the backend of the network device.
    ///
    /// # Errors
    /// [`NetworkError::NoPasst`], or the host is out of descriptors or processes.
    pub fn start() -> Result<(Passt, OwnedFd), NetworkError> {
        let program = locate().ok_or(NetworkError::NoPasst)?;
        let (ours, theirs) =
            UnixStream::pair().map_err(NetworkError::io("create a socket pair"))?;
        for end in [&ours, &theirs] {
            // Without CAP_NET_ADMIN as much as the host allows (`net.core.wmem_max`).
            let _ = set_socket_send_buffer_size_force(end, SEND_BUFFER)
                .or_else(|_| set_socket_send_buffer_size(end, SEND_BUFFER));
        }
        let mut child = Command::new(program)
            .args(arguments())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(NetworkError::io("start passt"))?;
        let killer = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => PasstKiller(Arc::new(pidfd)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(NetworkError::io("watch passt")(error.into()));
            }
        };
        Ok((Passt { child, killer }, ours.into()))
    }

    /// Waits until it has ended, and returns why.
    pub fn wait(&mut self) -> String {
        let mut tail = Vec::new();
        if let Some(stderr) = &mut self.child.stderr {
            let mut bytes = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                tail.extend_from_slice(&bytes[..count]);
                tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
            }
        }
        reason(&tail, &self.child.wait())
    }

    /// Why it has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(_)) | Err(_) => Some(self.wait()),
        }
    }

    /// Kills it; [`wait`](Self::wait) on another thread then returns.
    pub fn killer(&self) -> PasstKiller {
        self.killer.clone()
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.killer.kill();
        let _ = self.child.wait();
    }
}

/// The program on the search path.
pub(super) fn locate() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&paths)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(PROGRAM))
        .find(|path| {
            rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
        })
}

/// | option | reason |
/// |---|---|
/// | `--foreground --stderr --quiet` | a child of this process, whose last line is the reason of its end |
/// | `--fd 0` | its standard input is the socket of the network device |
/// | `--no-map-gw` | the guest does not reach the host's loopback through the router's address |
/// | `--no-dhcp…`, `--dns`, `--search` | the agent configures the guest |
/// | `none` | no port of the host leads to the guest: that is [publishing](crate::spec::Forward) |
fn arguments() -> Vec<String> {
    let [v4, v4_gateway] = USER_V4;
    let [v6, v6_gateway] = USER_V6;
    let text = format!(
        "--foreground --stderr --quiet --fd 0 --address {v4} --netmask {USER_V4_PREFIX} \
         --gateway {v4_gateway} --address {v6} --gateway {v6_gateway} --mtu {NET_MTU} --no-map-gw \
         --no-dhcp --no-dhcpv6 --no-ra --dns none --search none --tcp-ports none --udp-ports none"
    );
    text.split_whitespace().map(str::to_owned).collect()
}

/// The last line that says something, or the exit status.
fn reason(stderr: &[u8], status: &io::Result<std::process::ExitStatus>) -> String {
    let text = String::from_utf8_lossy(stderr);
    let is_reason = |line: &&str| {
        !line.trim().is_empty() && !NOT_A_REASON.iter().any(|start| line.starts_with(start))
    };
    if let Some(line) = text.lines().rev().find(is_reason) {
        return line.trim().to_owned();
    }
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "its exit status is unknown".into(),
        },
        Err(error) => error.to_string(),
    }
}
