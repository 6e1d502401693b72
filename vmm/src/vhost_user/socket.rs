//! A connected pair of sockets. The daemon accepts one end from a listener; the other end is a file
//! descriptor. The path exists only for a moment, so nothing else can connect.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

const NAME: &str = "vhost-user";

/// A listener with one pending connection, and the other end of that connection.
///
/// `dir` must be private to this user. If it is too long for a socket (whose path has at most 107
/// bytes), the path goes through a file descriptor of `dir`, which needs /proc.
pub fn connected_pair(dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    // All devices use the same name, one after the other.
    let path = dir.join(NAME);
    if SocketAddr::from_pathname(&path).is_ok() {
        return connected(&path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, dir, flags, Mode::empty())?;
    connected(Path::new(&format!(
        "/proc/self/fd/{}/{NAME}",
        dir.as_raw_fd()
    )))
}

fn connected(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let stream = UnixStream::connect(path);
    std::fs::remove_file(path)?;
    Ok((listener, stream?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pair_is_connected_in_a_path_of_any_length_and_leaves_no_file() {
        for length in [1, 200] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("x".repeat(length));
            std::fs::create_dir(&dir).unwrap();
            let (listener, mut theirs) = connected_pair(&dir).unwrap();
            let (mut ours, _) = listener.accept().unwrap();
            theirs.write_all(b"x").unwrap();
            let mut got = [0; 1];
            ours.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"x");
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        }
    }
}
