//! Blobs that are coming over a network: what has come is kept when the process ends in the middle,
//! so that the next one need not begin anew.
//!
//! `partial/<hex>` is named by the digest the blob will have and locked by whoever writes it. What
//! is in it is worth nothing until all of it has been hashed: it may end in bytes that never
//! reached the disk. A writer reads it through its hasher before it goes on.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::partial::PartialFile;
use crate::file::temporary::Temporary;
use crate::file::{directory, lock};
use crate::object::blob::BlobWriter;
use crate::store::Store;

/// How long a part waits for its rest.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// A writer for the blob of that digest, which goes on where an earlier one was stopped: the
    /// caller takes what is there with [`BlobWriter::replay`] and then writes the rest. The
    /// caller holds the lock of the node that fetches it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn resume_writer(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        let path = self.layout().partial(digest);
        let Some(partial) = PartialFile::open(path)? else {
            // Both write all of it; the content is the same.
            return self.writer();
        };
        let there = (partial.file().metadata())
            .map_err(|error| StoreError::io("inspect", partial.path(), error))?
            .len();
        Ok(BlobWriter::new(self, Temporary::Partial(partial), there))
    }

    /// Parts that nobody writes: all of them, or those that have waited too long.
    pub(crate) fn stale_partials(&self, all: bool) -> Result<Vec<PathBuf>, StoreError> {
        let mut stale = Vec::new();
        let dir = self.layout().dir("partial");
        directory::list(&dir, |name, metadata| {
            let path = dir.join(name);
            let since = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let waited = since.elapsed().unwrap_or_default();
            let free = |file: File| lock::try_exclusive(&file).unwrap_or(false);
            if (all || waited > PATIENCE) && File::open(&path).is_ok_and(free) {
                stale.push(path);
            }
            Ok(())
        })?;
        Ok(stale)
    }
}

impl BlobWriter {
    /// The next bytes of what an earlier writer left, hashed as if they had been written now; 0
    /// when there are no more, and only then the rest may be written.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn replay(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let left = usize::try_from(self.there - self.size).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let buffer = &mut buffer[..want];
        // Moves the file's position with it: what is written next goes behind.
        io::Read::read_exact(&mut self.temporary.file(), buffer)
            .map_err(|error| StoreError::io("read", self.temporary.path(), error))?;
        self.hasher.update(buffer);
        self.size += want as u64;
        Ok(want)
    }

    /// How many bytes an earlier writer left.
    pub fn left(&self) -> u64 {
        self.there
    }

    /// Throws away what there is and begins anew.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let cut = self.temporary.file().set_len(0);
        cut.map_err(|error| StoreError::io("cut", self.temporary.path(), error))?;
        (self.there, self.size) = (0, 0);
        self.hasher = Hasher::new();
        io::Seek::rewind(&mut self.temporary.file())
            .map_err(|error| StoreError::io("rewind", self.temporary.path(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn partials(store: &Store) -> usize {
        std::fs::read_dir(store.root().join("partial"))
            .unwrap()
            .count()
    }

    #[test]
    fn a_writer_goes_on_where_the_last_one_was_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let digest = Digest::of(&bytes);
        let mut first = store.resume_writer(&digest).unwrap();
        assert_eq!(first.replay(&mut [0; 10]).unwrap(), 0);
        first.write_all(&bytes[..2_000_000]).unwrap();
        drop(first);
        assert_eq!(partials(&store), 1);

        let mut second = store.resume_writer(&digest).unwrap();
        let mut replayed = Vec::new();
        let mut buffer = [0; 300_000];
        loop {
            match second.replay(&mut buffer).unwrap() {
                0 => break,
                read => replayed.extend_from_slice(&buffer[..read]),
            }
        }
        assert!(replayed == bytes[..2_000_000]);
        second.write_all(&bytes[2_000_000..]).unwrap();
        assert_eq!(second.commit(Some(&digest)).unwrap(), (digest, 3_000_000));
        assert_eq!(partials(&store), 0);
        assert_eq!(store.verify_blob(&digest).unwrap(), Some(3_000_000));
    }

    #[test]
    fn little_or_wrong_content_is_not_kept_and_two_writers_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let digest = Digest::of(b"right");
        let mut little = store.resume_writer(&digest).unwrap();
        little.write_all(b"ri").unwrap();
        let mut other = store.resume_writer(&digest).unwrap();
        other.write_all(b"right").unwrap();
        other.commit(Some(&digest)).unwrap();
        drop(little);
        assert_eq!(partials(&store), 0);

        let mut wrong = store.resume_writer(&digest).unwrap();
        wrong.write_all(&vec![0; 2 << 20]).unwrap();
        assert!(wrong.commit(Some(&digest)).is_err());
        assert_eq!(partials(&store), 0);

        let mut again = store.resume_writer(&digest).unwrap();
        again.write_all(b"wrong").unwrap();
        again.restart().unwrap();
        again.write_all(b"right").unwrap();
        assert_eq!(again.commit(Some(&digest)).unwrap().1, 5);
    }

    #[test]
    fn a_part_waits_a_day_unless_room_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let mut writer = store.resume_writer(&Digest::of(b"x")).unwrap();
        writer.write_all(&vec![0; 2 << 20]).unwrap();
        assert_eq!(store.stale_partials(true).unwrap().len(), 0, "in use");
        drop(writer);
        assert_eq!(store.stale_partials(false).unwrap().len(), 0);
        assert_eq!(store.stale_partials(true).unwrap().len(), 1);
    }
}
