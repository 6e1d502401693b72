//! The lab's initramfs: a newc cpio archive, written entry by entry.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

/// An archive being written. Everything in it belongs to root.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: BufWriter<W>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Archive<W> {
        Archive {
            out: BufWriter::with_capacity(1 << 20, out),
            inode: 0,
        }
    }

    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<()> {
        let entry = self.entry(path, ModeFileType::Directory, 0o755)?;
        self.write(entry, 0, &mut io::empty())
    }

    pub(crate) fn file(
        &mut self,
        path: &Path,
        mode: u32,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let entry = self.entry(path, ModeFileType::Regular, mode)?;
        self.write(entry, size, contents)
    }

    pub(crate) fn symlink(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        let target = target.as_os_str().as_encoded_bytes();
        let entry = self.entry(path, ModeFileType::Symlink, 0o777)?;
        self.write(entry, target.len() as u64, &mut &target[..])
    }

    pub(crate) fn device(&mut self, path: &Path, major: u32, minor: u32) -> io::Result<()> {
        let entry = self
            .entry(path, ModeFileType::Char, 0o600)?
            .rdev_major(major)
            .rdev_minor(minor);
        self.write(entry, 0, &mut io::empty())
    }

    /// Ends the archive and returns its writer.
    pub(crate) fn finish(self) -> io::Result<W> {
        let out = trailer(self.out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn entry(&mut self, path: &Path, kind: ModeFileType, mode: u32) -> io::Result<Builder> {
        let name = path
            .to_str()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))?;
        self.inode += 1;
        Ok(Builder::new(name)
            .ino(self.inode)
            .nlink(1)
            .mode(mode)
            .set_mode_file_type(kind))
    }

    fn write(&mut self, entry: Builder, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let size = u32::try_from(size)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "larger than 4 GiB"))?;
        let mut writer = entry.write(&mut self.out, size);
        let copied = io::copy(&mut contents.take(u64::from(size)), &mut writer)?;
        if copied != u64::from(size) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file shrank while it was read",
            ));
        }
        writer.finish()?;
        Ok(())
    }
}
