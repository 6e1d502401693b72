//! A raw image: byte n of the disk is byte n of the file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::{Backend, zero};
use crate::virtio::Segments;

/// A raw image, read-only or written in place.
#[derive(Debug)]
pub struct Raw {
    file: File,
    len: u64,
    read_only: bool,
}

impl Raw {
    /// The disk in `file`, `len` bytes long (whole sectors).
    pub fn new(file: File, len: u64, read_only: bool) -> Raw {
        Raw {
            file,
            len,
            read_only,
        }
    }
}

impl Backend for Raw {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn durable(&self) -> bool {
        !self.read_only
    }

    fn read_at(&mut self, into: Segments<'_>, offset: u64) -> io::Result<()> {
        into.read_at(self.file.as_fd(), offset)
    }

    fn write_at(&mut self, from: Segments<'_>, offset: u64) -> io::Result<()> {
        from.write_at(self.file.as_fd(), offset)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        zero::punch(&self.file, offset, len).map(drop)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        zero::zero(&self.file, offset, len, unmap)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
