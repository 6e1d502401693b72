use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use microagent_vmm::virtio::block::{Presence, PresenceError, lock};

use super::RootFsError;

/// The size of the blocks of a delta, and of the file systems, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// A disk: a base, and what a guest wrote to it.
#[derive(Debug)]
pub struct Blocks {
    base: File,
    len: u64,
    delta: Option<(File, Presence)>,
}

impl Blocks {
    /// The disk in the file `base` alone.
    ///
    /// # Errors
    /// [`RootFsError::File`], and [`RootFsError::InUse`] if a VM writes it.
    pub fn base(base: &Path) -> Result<Blocks, RootFsError> {
        let unreadable = unreadable(base);
        let file = File::open(base).map_err(&unreadable)?;
        // Not while a VM writes it.
        lock(&file, base, false).map_err(RootFsError::InUse)?;
        let len = file.metadata().map_err(unreadable)?.len();
        Ok(Blocks {
            base: file,
            len,
            delta: None,
        })
    }

    /// The disk in the file `base` under `delta`, of which `presence` says which blocks it holds.
    /// Without these files, nothing was written yet.
    ///
    /// # Errors
    /// [`RootFsError::File`], and [`RootFsError::Presence`] if the files do not belong together.
    pub fn with_delta(base: &Path, delta: &Path, presence: &Path) -> Result<Blocks, RootFsError> {
        let mut blocks = Blocks::base(base)?;
        let open = |path: &Path| match File::open(path) {
            Ok(file) => file.metadata().map(|found| Some((file, found.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let file = open(delta).map_err(unreadable(delta))?;
        if let Some((file, _)) = &file {
            lock(file, delta, false).map_err(RootFsError::InUse)?;
        }
        let map = open(presence).map_err(unreadable(presence))?;
        let unusable = |source| RootFsError::Presence {
            path: presence.to_owned(),
            source,
        };
        let read = |map: &File| Presence::read(map, blocks.len).map_err(unusable);
        // As the VM opens them: the map gets its header before the delta gets its size.
        blocks.delta = match (file, map) {
            (Some((file, len)), Some((map, mapped))) if len == blocks.len && mapped != 0 => {
                Some((file, read(&map)?))
            }
            (None | Some((_, 0)), None) => None,
            (None | Some((_, 0)), Some((map, _))) if read(&map)?.is_empty() => None,
            _ => return Err(unusable(PresenceError::Other)),
        };
        Ok(blocks)
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), RootFsError> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(RootFsError::damaged("it is larger than its disk"));
        }
        let Some((delta, held)) = &self.delta else {
            return read_at(&self.base, buffer, offset);
        };
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let last = (offset + buffer.len() as u64).div_ceil(BLOCK);
            let (in_delta, end) = held.run(at / BLOCK, last);
            let part = (end * BLOCK - at).min((buffer.len() - done) as u64) as usize;
            let from = if in_delta { delta } else { &self.base };
            read_at(from, &mut buffer[done..done + part], at)?;
            done += part;
        }
        Ok(())
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> Result<(), RootFsError> {
    file.read_exact_at(buffer, offset)
        .map_err(RootFsError::Disk)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> RootFsError {
    move |source| RootFsError::File {
        path: path.to_owned(),
        source,
    }
}
