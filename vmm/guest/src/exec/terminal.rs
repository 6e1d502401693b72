//! The terminal of a command: a pseudo-terminal of the guest's kernel.

use std::io;
use std::os::fd::OwnedFd;

use microagent_proto::agent::WindowSize;
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fstat, major, minor, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::user::Identity;

/// Where the multiplexer is, in the order in which it is tried. The first one belongs to the
/// instance of devpts that the command sees.
const MULTIPLEXERS: [&str; 2] = ["/dev/pts/ptmx", "/dev/ptmx"];

/// The device number of the multiplexer (`Documentation/admin-guide/devices.txt`).
const MULTIPLEXER: (u32, u32) = (5, 2);

/// The group of terminals, as container engines mount devpts.
const TTY_GROUP: u32 = 5;

/// A terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The agent's side, which does not block.
    pub master: OwnedFd,
    /// The command's side.
    pub slave: OwnedFd,
}

impl Terminal {
    /// Opens a terminal of this size, in the calling thread's mount namespace. Its user owns it, so
    /// that the command can open it by name (`/dev/tty`, `/dev/stdout`).
    pub fn open(size: WindowSize, identity: &Identity) -> io::Result<Terminal> {
        let master = open_multiplexer()?;
        unlockpt(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(TTY_GROUP));
        rustix::fs::fchown(&slave, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&slave, Mode::from_raw_mode(0o620))?;
        resize(&master, size)?;
        Ok(Terminal { master, slave })
    }
}

/// Sets the size of the terminal with this agent's side.
pub fn resize(master: &OwnedFd, size: WindowSize) -> io::Result<()> {
    Ok(tcsetwinsize(
        master,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?)
}

/// Opens the multiplexer, and nothing that the image has in its place.
fn open_multiplexer() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut failed = Errno::NODEV;
    for path in MULTIPLEXERS {
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(opened) => {
                let stat = fstat(&opened)?;
                let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
                if is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == MULTIPLEXER {
                    return Ok(opened);
                }
                failed = Errno::NODEV;
            }
            Err(error) => failed = error,
        }
    }
    Err(failed.into())
}
