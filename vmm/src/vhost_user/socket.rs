//! A connection whose one end is accepted from a listener, because that is how the daemon takes
//! it, and whose other end is a descriptor to pass on: no path by which others could come.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};

const NAME: &str = "vhost-user";

/// A listener with one connection waiting, and that connection's other end.
///
/// `dir` must be private to this user. The path is made through a descriptor of it, so its length
/// does not matter (a socket's path is at most 107 bytes).
pub fn connected_pair(dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, dir, flags, Mode::empty())?;
    // The name is used by one device after the other, for a moment each.
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
    fn the_ends_meet_however_long_the_path_and_leave_nothing() {
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
