//! Writes the initramfs as a newc cpio archive.

use std::io::{self, Write};

use cpio::newc;

/// Type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// Writes the archive: its fixed entries, the agent, and the modules by name in load order.
pub(super) fn pack(out: impl Write, agent: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<()> {
    let mut archive = Archive { out, inode: 0 };
    for directory in ["dev", "proc", "sys", "newroot", "modules"] {
        archive.add(directory, DIRECTORY | 0o755, None, &[])?;
    }
    archive.add("dev/console", CHARACTER | 0o600, Some((5, 1)), &[])?;
    archive.add("init", REGULAR | 0o755, None, agent)?;
    let mut load = String::new();
    for (name, bytes) in modules {
        let path = format!("modules/{name}");
        archive.add(&path, REGULAR | 0o644, None, bytes)?;
        load.push_str(&format!("/{path}\n"));
    }
    archive.add("modules.load", REGULAR | 0o644, None, load.as_bytes())?;
    newc::trailer(archive.out)?.flush()
}

struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        device: Option<(u32, u32)>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.inode += 1;
        let (major, minor) = device.unwrap_or_default();
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let entry = newc::Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .nlink(if mode & DIRECTORY == DIRECTORY { 2 } else { 1 })
            .rdev_major(major)
            .rdev_minor(minor);
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }
}
