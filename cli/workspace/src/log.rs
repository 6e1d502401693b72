//! A log file of bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file to which lines are appended. When it would become longer than its limit, it is replaced
/// by its newer half, which begins with a whole line. The owner alone can read it.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl BoundedLog {
    /// Opens or creates `path`, which will have at most `limit` bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path, limit: u64) -> io::Result<BoundedLog> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(path)?;
        let length = file.metadata()?.len();
        Ok(BoundedLog {
            path: path.to_owned(),
            file,
            length,
            limit,
        })
    }

    /// Appends `bytes`; of more than half the limit only the end.
    ///
    /// # Errors
    /// Those of the file system. Part of `bytes` may have been written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let half = usize::try_from(self.limit / 2).unwrap_or(usize::MAX);
        let bytes = &bytes[bytes.len().saturating_sub(half)..];
        if self.length + bytes.len() as u64 > self.limit {
            self.halve()?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Appends a line that begins at the start of one, also after a crash that left part of one.
    ///
    /// # Errors
    /// As [`BoundedLog::append`].
    pub fn append_line(&mut self, line: &[u8]) -> io::Result<()> {
        let mut last = [b'\n'];
        if self.length > 0 {
            self.file.read_exact_at(&mut last, self.length - 1)?;
        }
        if last != *b"\n" {
            self.append(b"\n")?;
        }
        self.append(line)
    }

    fn halve(&mut self) -> io::Result<()> {
        let kept = tail(&mut self.file, self.limit / 2)?;
        replace(&self.path, &kept)?;
        *self = BoundedLog::open(&self.path, self.limit)?;
        Ok(())
    }
}

/// The last whole lines of `file` that have at most `limit` bytes together, or its last `limit`
/// bytes if they have no line end.
///
/// # Errors
/// Those of the file system.
pub fn tail(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut reader = BufReader::new(&*file);
    let mut bytes = Vec::new();
    if start > 0 {
        reader.read_until(b'\n', &mut bytes)?;
        if (bytes.len() as u64) < limit {
            bytes.clear();
        }
    }
    reader.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How the name of a file begins that will replace another one.
pub const REPLACEMENT: &str = ".replace-";

/// Replaces a file by one with this content, which the owner alone can read.
///
/// # Errors
/// Those of the file system. The former content is then unchanged.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(REPLACEMENT)
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    fs::rename(file.path(), path)?;
    // It has another name now.
    let _ = file.keep();
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_half_is_kept_from_a_whole_line_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::open(&path, 100).unwrap();
        for number in 0..50 {
            log.append(format!("line {number:02}\n").as_bytes())
                .unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 100);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("line ") && text.ends_with("line 49\n"),
            "{text}"
        );
        // Reopened, it continues.
        let mut log = BoundedLog::open(&path, 100).unwrap();
        log.append(b"x").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 49\nx"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn bytes_without_line_ends_are_bounded_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::open(&path, 100).unwrap();
        for _ in 0..30 {
            log.append(&[b'a'; 30]).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 100);
        }
        log.append(&[b'b'; 500]).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() <= 100 && bytes.ends_with(&[b'b'; 50]));
    }
}
