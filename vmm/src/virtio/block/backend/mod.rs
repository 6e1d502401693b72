//! Where a disk's bytes are. Back ends see byte ranges within the disk, whole sectors, and know
//! nothing of virtio.

mod overlay;
mod raw;
mod zero;

use std::fmt::Debug;
use std::io;

use crate::virtio::Segments;
pub use overlay::Overlay;
pub use raw::Raw;

/// The bytes of a disk.
///
/// The device has checked that ranges lie within [`size`](Self::size), are whole sectors, and that
/// nothing is written when [`read_only`](Self::read_only).
pub trait Backend: Send + Debug {
    /// The size of the disk in bytes: whole sectors, and the same for its life. A disk of another
    /// size takes its place ([`Slot`](super::Slot)).
    fn size(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Whether writes are meant to outlive the VM, so that [`flush`](Self::flush) has a meaning.
    fn durable(&self) -> bool;

    /// Reads a range.
    ///
    /// # Errors
    /// What the host's file system says. The buffer's content is then undefined.
    fn read_at(&mut self, into: Segments<'_>, offset: u64) -> io::Result<()>;

    /// Writes a range.
    ///
    /// # Errors
    /// What the host's file system says; part of the range may have been written.
    fn write_at(&mut self, from: Segments<'_>, offset: u64) -> io::Result<()>;

    /// Gives up what a range holds; it may read as anything afterwards, here as zeros where the
    /// host frees it and as before where not.
    ///
    /// # Errors
    /// What the host's file system says.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes a range read as zeros. `unmap` allows to free it.
    ///
    /// # Errors
    /// What the host's file system says; part of the range may have become zero.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Makes the writes that are done durable.
    ///
    /// # Errors
    /// What the host's file system says; nothing is then known about those writes.
    fn flush(&mut self) -> io::Result<()>;
}
