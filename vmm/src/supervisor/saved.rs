//! The file of a saved VM: its memory, then its [state](crate::snapshot).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::engine::{EngineError, RunningVm};
use crate::snapshot::MAX_LENGTH;

/// Writes the state of a VM that is paused to a file that is empty.
///
/// # Errors
/// Those of [`RunningVm::save`], and when the file cannot be written.
pub(super) fn write(vm: &mut dyn RunningVm, file: &File) -> Result<(), EngineError> {
    let state = vm.save(file)?;
    let append = || file.write_all_at(&state, file.metadata()?.len());
    append().map_err(|source| EngineError::Io {
        operation: "write the state of the VM",
        source,
    })
}

/// The longest list of pages, in bytes.
const MAX_PAGES: u64 = 1 << 20;

/// The pages that VMs of a snapshot write; none if they are not known.
pub(super) fn pages(path: &Path) -> Vec<Range<u64>> {
    let mut text = Vec::new();
    let open = || {
        let mut options = File::options();
        // One that is no regular file must not block.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = options.read(true).custom_flags(flags).open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    };
    let read = open().and_then(|file| file.take(MAX_PAGES).read_to_end(&mut text));
    let runs = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    let runs: Vec<[u64; 2]> = runs.unwrap_or_default();
    runs.into_iter().map(|[from, to]| from..to).collect()
}

/// Writes the list of pages of a VM, unless there is one. Errors are ignored: the next VM writes it.
pub(super) fn record_pages(vm: &dyn RunningVm, path: &Path) {
    if path.exists() {
        return;
    }
    let Some(runs) = vm.written_pages() else {
        return;
    };
    let runs: Vec<[u64; 2]> = runs.iter().map(|run| [run.start, run.end]).collect();
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, &runs)?;
        file.persist(path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!("cannot record the pages of a snapshot: {error}");
    }
}

/// Opens a file of [`write`] of a VM with this much memory, in bytes, and reads the state.
///
/// # Errors
/// When it cannot be read.
pub(super) fn open(path: &Path, memory_bytes: u64) -> Result<(File, Vec<u8>), EngineError> {
    let read = || -> io::Result<(File, Vec<u8>)> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(memory_bytes))?;
        let mut state = Vec::new();
        // One byte more, so that what is too long is not taken for less.
        Read::by_ref(&mut file)
            .take(MAX_LENGTH as u64 + 1)
            .read_to_end(&mut state)?;
        Ok((file, state))
    };
    read().map_err(|source| EngineError::Io {
        operation: "read the saved VM",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_pages_is_read_or_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pages");
        assert_eq!(pages(&path), []);
        let backwards = Range { start: 3, end: 1 };
        for (text, expected) in [
            ("[[1,3],[7,8]]", vec![1..3, 7..8]),
            ("[[3,1],[1,3]]", vec![backwards, 1..3]),
            ("[[1,3],", vec![]),
            ("[[-1,3]]", vec![]),
            ("", vec![]),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(pages(&path), expected, "{text}");
        }
        std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
        assert_eq!(pages(&path), []);
    }
}
