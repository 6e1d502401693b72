//! Storage back ends. They read and write byte ranges and do not depend on virtio.

mod overlay;
mod presence;
mod raw;
mod zero;

use std::fmt::Debug;
use std::io;

use crate::virtio::Segments;
pub use overlay::Overlay;
pub use presence::{Presence, PresenceError};
pub use raw::Raw;

/// The storage of a disk.
///
/// The device ensures that ranges are within [`size`](Self::size) and are whole sectors, and that a
/// [`read_only`](Self::read_only) back end is not written.
pub trait Backend: Send + Debug {
    /// The size of the disk in bytes: whole sectors. It never changes; a disk of another size needs
    /// another back end ([`Slot`](super::Slot)).
    fn size(&self) -> u64;

    /// Whether the disk is read-only.
    fn read_only(&self) -> bool;

    /// Whether writes must outlive the VM, so that [`flush`](Self::flush) has an effect.
    fn durable(&self) -> bool;

    /// Reads a range.
    ///
    /// # Errors
    /// Those of the host's file system. The content of the buffer is then undefined.
    fn read_at(&mut self, into: Segments<'_>, offset: u64) -> io::Result<()>;

    /// Writes a range.
    ///
    /// # Errors
    /// Those of the host's file system. Part of the range may have been written.
    fn write_at(&mut self, from: Segments<'_>, offset: u64) -> io::Result<()>;

    /// Discards a range, in a time that does not depend on its length. Its content is undefined
    /// afterwards; in practice it reads as zeros if the host can free it, and is unchanged if not.
    ///
    /// # Errors
    /// Those of the host's file system.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Fills a range with zeros; `unmap` allows freeing it.
    ///
    /// # Errors
    /// Those of the host's file system. Part of the range may have been filled.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// Those of the host's file system. Some of the writes may then be lost.
    fn flush(&mut self) -> io::Result<()>;
}
