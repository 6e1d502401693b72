//! Copies of disk images, as cheap as the target allows: a reflink, otherwise a sparse copy.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use microagent_workspace::sparse;
use rustix::fs::{FallocateFlags, fallocate};

use crate::out_file::{Access, OutError, OutFile};

/// Zeros are written in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// Copies `source` to `target`.
///
/// # Errors
/// When that fails; a regular file at the target is then unchanged.
pub fn copy(source: &Path, target: OutFile) -> Result<(), OutError> {
    fill(source, &target).map_err(|error| target.error(error))?;
    target.commit()
}

fn fill(source: &Path, target: &OutFile) -> io::Result<()> {
    let from = File::open(source)?;
    let access = target.access()?;
    let size = from.metadata()?.len();
    match access {
        Access::Fresh if sparse::reflink(&from, target.file())? => return Ok(()),
        Access::Device(capacity) if capacity < size => {
            return Err(io::Error::other(format!(
                "it has {capacity} bytes, the image has {size}"
            )));
        }
        Access::Fresh | Access::Device(_) | Access::Sequential => {}
    }
    copy_data(&from, target.file(), access, size)
}

fn copy_data(from: &File, mut to: &File, access: Access, size: u64) -> io::Result<()> {
    let mut done = 0;
    sparse::each_data(from, size, |start, end| {
        zeros(to, access, done, start)?;
        let mut from = from;
        from.seek(SeekFrom::Start(start))?;
        if access != Access::Sequential {
            to.seek(SeekFrom::Start(start))?;
        }
        io::copy(&mut Read::take(from, end - start), &mut to)?;
        done = end;
        Ok(())
    })?;
    zeros(to, access, done, size)?;
    if access == Access::Fresh {
        to.set_len(size)?;
    }
    to.flush()
}

/// Makes the bytes from `begin` up to `end` zeros.
fn zeros(mut to: &File, access: Access, begin: u64, end: u64) -> io::Result<()> {
    let mut left = end - begin;
    match access {
        Access::Fresh => return Ok(()),
        Access::Device(_) if left > 0 => {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            if fallocate(to, flags, begin, left).is_ok() {
                return Ok(());
            }
            to.seek(SeekFrom::Start(begin))?;
        }
        Access::Device(_) | Access::Sequential => {}
    }
    let piece = vec![0; PIECE];
    while left > 0 {
        let part = left.min(PIECE as u64);
        to.write_all(&piece[..part as usize])?;
        left -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::termination::Termination;

    fn sparse(path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
    }

    #[test]
    fn a_copy_keeps_the_content_and_the_holes() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        sparse(&source);
        let target = directory.path().join("target");
        fs::write(&target, "old").unwrap();
        copy(
            &source,
            OutFile::create(&target, &Termination::for_test()).unwrap(),
        )
        .unwrap();
        assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
        assert!(fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    /// A device has old content, and a stream has no positions.
    #[test]
    fn holes_are_written_where_they_are_not_already_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        sparse(&source);
        for access in [Access::Device(64 << 20), Access::Sequential] {
            let target = directory.path().join("target");
            fs::write(&target, vec![7; 64 << 20]).unwrap();
            let to = File::options().write(true).open(&target).unwrap();
            copy_data(&File::open(&source).unwrap(), &to, access, 64 << 20).unwrap();
            assert!(
                fs::read(&source).unwrap() == fs::read(&target).unwrap(),
                "{access:?}"
            );
        }
    }
}
