//! Interrupted downloads: the received part of a blob is kept, so that the next process can resume
//! it.
//!
//! `partial/<hex>` is named by the digest that the blob will have and locked by its writer. Its
//! content is not trusted: it may end in bytes that never reached the disk. A writer reads it
//! through its hasher before it appends to it.

use std::io;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::partial::PartialFile;
use crate::file::temporary::Temporary;
use crate::file::{directory, lock};
use crate::object::blob::BlobWriter;
use crate::store::Store;

/// How long an interrupted download is kept.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Creates a writer that resumes the blob with this digest where an earlier writer stopped:
    /// the caller reads the existing part with [`BlobWriter::replay`], then writes the rest. The
    /// caller holds the lock of the node that fetches the blob.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn resume_writer(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        let path = self.layout().partial(digest);
        let Some(partial) = PartialFile::open(path)? else {
            // Both write the whole blob; the content is the same.
            return self.writer();
        };
        let left = (partial.file().metadata())
            .map_err(|error| StoreError::io("inspect", partial.path(), error))?
            .len();
        Ok(BlobWriter::new(self, Temporary::Partial(partial), left))
    }

    /// Removes interrupted downloads without a writer: all, or those older than [`MAX_AGE`];
    /// returns their number. Each is removed while its lock is held, so that no writer resumes it
    /// meanwhile.
    pub(crate) fn remove_stale_partials(&self, all: bool) -> Result<u64, StoreError> {
        let mut removed = 0;
        let dir = self.layout().dir("partial");
        directory::list(&dir, |name, metadata| {
            let since = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let age = since.elapsed().unwrap_or_default();
            if (all || age > MAX_AGE) && lock::remove_if_free(&dir.join(name))? {
                removed += 1;
            }
            Ok(())
        })?;
        Ok(removed)
    }
}

impl BlobWriter {
    /// Reads and hashes the next bytes that an earlier writer left; returns their number. The
    /// rest may be written only after this returned 0.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn replay(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let remaining = usize::try_from(self.left - self.size).unwrap_or(usize::MAX);
        let want = buffer.len().min(remaining);
        let buffer = &mut buffer[..want];
        // Advances the file's position, so that writes append.
        io::Read::read_exact(&mut self.temporary.file(), buffer)
            .map_err(|error| StoreError::io("read", self.temporary.path(), error))?;
        self.hasher.update(buffer);
        self.size += want as u64;
        Ok(want)
    }

    /// The number of bytes that an earlier writer left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Discards everything written or left and starts again at byte 0.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let truncated = self.temporary.file().set_len(0);
        truncated.map_err(|error| StoreError::io("truncate", self.temporary.path(), error))?;
        (self.left, self.size) = (0, 0);
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
    fn a_writer_resumes_where_the_last_one_stopped() {
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
    fn small_or_wrong_content_is_discarded_and_a_second_writer_is_independent() {
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
    fn an_interrupted_download_is_kept_for_a_day_unless_space_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let mut writer = store.resume_writer(&Digest::of(b"x")).unwrap();
        writer.write_all(&vec![0; 2 << 20]).unwrap();
        assert_eq!(store.remove_stale_partials(true).unwrap(), 0, "in use");
        drop(writer);
        assert_eq!(store.remove_stale_partials(false).unwrap(), 0);
        assert_eq!(store.remove_stale_partials(true).unwrap(), 1);
        assert_eq!(partials(&store), 0);
    }

    /// A writer that has opened the file and not locked it yet finds out that it is gone.
    #[test]
    fn what_a_writer_resumes_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let digest = Digest::of(b"x");
        let path = store.root().join("partial").join(digest.hex());
        let (rounds, stop) = (500, std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let collector = scope.spawn(|| {
                let mut removed = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    removed += store.remove_stale_partials(true).unwrap();
                }
                removed
            });
            let mut resumed = 0;
            for _ in 0..rounds {
                let writer = store.resume_writer(&digest).unwrap();
                if writer.temporary.path() == path {
                    resumed += 1;
                    std::thread::yield_now();
                    assert!(path.exists(), "removed while it was being written");
                }
                drop(writer);
                std::fs::write(&path, b"left").unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(resumed > 0 && collector.join().unwrap() > 0);
        });
    }
}
