//! A connected pair of sockets. The daemon accepts one end from a listener; the other end is a file
//! descriptor. The path exists only for a moment, so nothing else can connect.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};

const NAME: &str = "vhost-user";

/// A listener with one pending connection, and the other end of that connection.
///
/// `dir` must be private to this user. The path goes through a file descriptor of `dir`, so the
/// length of `dir` does not matter (the path of a socket has at most 107 bytes).
pub fn connected_pair(dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, dir, flags, Mode::empty())?;
    // All devices use the same name, one after the other.
    let path = format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path);
    unlinkat(&dir, NAME, AtFlags::empty())?;
    Ok((listener, stream?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pair_is_connected_in_a_long_path_and_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("x".repeat(200));
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
