//! Logs of bounded size.
//!
//! A log is two files: `NAME`, to which bytes are appended, and `NAME.1`, which has what was written
//! just before. When the former has about half of the log's limit, it replaces the latter by a
//! rename, and an empty one is begun. So a [reader](LogReader) that keeps up sees every byte once,
//! whatever the writer removes meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much is read at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// A log to which bytes are appended. The owner alone can read it.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    file: File,
    length: u64,
    /// The last byte is the end of a line, or there is none.
    at_line_start: bool,
    limit: u64,
}

impl BoundedLog {
    /// Opens or creates the log `path`, which will have at most `limit` bytes in both files together.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path, limit: u64) -> io::Result<BoundedLog> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.open(path)?;
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        Ok(BoundedLog {
            path: path.to_owned(),
            file,
            length,
            at_line_start: last == *b"\n",
            limit,
        })
    }

    /// Appends `bytes`. A line is divided between the files only if it alone is long.
    ///
    /// # Errors
    /// Those of the file system. Part of `bytes` may have been written.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let full = self.limit / 2;
        // From here on, the next line begins a new file.
        let enough = full - full / 8;
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.length >= full || self.length >= enough && self.at_line_start {
                self.rotate()?;
            }
            let at_most = usize::try_from(full - self.length).unwrap_or(usize::MAX);
            let part = &rest[..rest.len().min(at_most)];
            let begin = usize::try_from(enough.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let end = part.get(begin..).and_then(|tail| {
                let newline = tail.iter().position(|&byte| byte == b'\n')?;
                Some(begin + newline + 1)
            });
            let (part, later) = rest.split_at(end.unwrap_or(part.len()));
            self.file.write_all(part)?;
            self.length += part.len() as u64;
            self.at_line_start = part.ends_with(b"\n");
            rest = later;
        }
        Ok(())
    }

    /// Appends a line that begins at the start of one, also after a crash that left part of one.
    ///
    /// # Errors
    /// As [`BoundedLog::append`].
    pub fn append_line(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.at_line_start {
            self.append(b"\n")?;
        }
        self.append(line)
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, before(&self.path))?;
        *self = BoundedLog::open(&self.path, self.limit)?;
        Ok(())
    }
}

/// The file with what was written before the log `path`.
fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// All that the log `path` has; nothing if it does not exist.
///
/// # Errors
/// Those of the file system.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut reader = LogReader::new(path);
    let mut bytes = Vec::new();
    while reader.read(&mut bytes)? {}
    Ok(bytes)
}

/// Reads a log from its oldest byte on, while another process may append to it. A reader that is
/// slower than the writer by the size of the log misses what was removed.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
}

impl LogReader {
    /// A reader of the log `path`, which need not exist yet.
    pub fn new(path: &Path) -> LogReader {
        LogReader {
            path: path.to_owned(),
            file: None,
        }
    }

    /// Appends the next bytes of the log to `bytes`, at most 64 KiB; `false` if there are none yet.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            if self.file.is_none() {
                self.file = self.oldest()?;
            }
            let Some(file) = &self.file else {
                return Ok(false);
            };
            if read_chunk(file, bytes)? {
                return Ok(true);
            }
            let Some(next) = self.next(file)? else {
                return Ok(false);
            };
            // What was appended between the end that was found and the rename.
            let more = read_chunk(file, bytes)?;
            if !more {
                self.file = Some(next);
            } else {
                return Ok(true);
            }
        }
    }

    /// The file with the oldest bytes.
    fn oldest(&self) -> io::Result<Option<File>> {
        loop {
            let current = open(&self.path)?;
            let before = open(&before(&self.path))?;
            match (current, before) {
                (_, Some(before)) => return Ok(Some(before)),
                (None, None) => return Ok(None),
                // Unless it has just been renamed.
                (Some(current), None) if is_at(&current, &self.path)? => return Ok(Some(current)),
                (Some(_), None) => {}
            }
        }
    }

    /// The file after `file`; `None` if `file` is the one to which bytes are appended.
    fn next(&self, file: &File) -> io::Result<Option<File>> {
        let before = before(&self.path);
        loop {
            if is_at(file, &self.path)? {
                return Ok(None);
            }
            let current = open(&self.path)?;
            // Checked after `current` was opened, which is therefore the next one: `file` is open, so
            // that no other one has its identity.
            if is_at(file, &before)? {
                return Ok(current);
            }
            // What was in between is gone.
            match open(&before)? {
                Some(found) if !is_at(file, &before)? => return Ok(Some(found)),
                Some(_) => {}
                // The log was removed.
                None => return Ok(None),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `path` is this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let metadata = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (metadata.dev(), metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_chunk(file: &File, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let length = bytes.len();
    Read::take(file, CHUNK as u64).read_to_end(bytes)?;
    Ok(bytes.len() > length)
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
    use std::thread;

    use super::*;

    /// The log's size on disk.
    fn size(path: &Path) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        length(path) + length(&before(path))
    }

    #[test]
    fn the_newest_lines_are_kept_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(read(&path).unwrap(), b"");
        let mut log = BoundedLog::open(&path, 100).unwrap();
        for number in 0..50 {
            log.append(format!("line {number:02}\n").as_bytes())
                .unwrap();
            assert!(size(&path) <= 100);
        }
        let text = String::from_utf8(read(&path).unwrap()).unwrap();
        assert!(
            text.starts_with("line ") && text.ends_with("line 49\n") && text.len() > 50,
            "{text}"
        );
        // Reopened, it continues.
        let mut log = BoundedLog::open(&path, 100).unwrap();
        log.append(b"x").unwrap();
        assert!(read(&path).unwrap().ends_with(b"line 49\nx"));
        log.append_line(b"y\n").unwrap();
        assert!(read(&path).unwrap().ends_with(b"line 49\nx\ny\n"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn bytes_without_line_ends_are_bounded_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::open(&path, 100).unwrap();
        for _ in 0..30 {
            log.append(&[b'a'; 30]).unwrap();
            assert!(size(&path) <= 100);
        }
        log.append(&[b'b'; 500]).unwrap();
        let bytes = read(&path).unwrap();
        assert!(size(&path) <= 100 && bytes.ends_with(&[b'b'; 50]));
    }

    #[test]
    fn a_reader_that_keeps_up_sees_every_byte_once_and_one_that_does_not_sees_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut slow = LogReader::new(&path);
        let mut reader = LogReader::new(&path);
        let (mut seen, mut written) = (Vec::new(), Vec::new());
        assert!(!reader.read(&mut seen).unwrap());
        let mut log = BoundedLog::open(&path, 100).unwrap();
        for number in 0..500 {
            let line = format!("{number}\n").repeat(number % 5);
            log.append(line.as_bytes()).unwrap();
            written.extend(line.as_bytes());
            if number == 0 {
                slow.read(&mut Vec::new()).unwrap();
            }
            while reader.read(&mut seen).unwrap() {}
            assert_eq!(seen, written);
        }
        let mut late = Vec::new();
        while slow.read(&mut late).unwrap() {}
        // The rest of the file that it had opened, and the newest.
        assert!(late.len() > 50 && late.len() < written.len());
        assert!(
            (0..late.len()).any(|end| {
                written.starts_with(&late[..end]) && written.ends_with(&late[end..])
            })
        );
    }

    #[test]
    fn a_reader_beside_a_writer_misses_and_repeats_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        // So large that the reader is never left behind by all of it.
        let mut log = BoundedLog::open(&path, 8 << 20).unwrap();
        let writer = thread::spawn(move || {
            for number in 0..1_000_000 {
                log.append(format!("{number}\n").as_bytes()).unwrap();
            }
        });
        let mut reader = LogReader::new(&path);
        let mut seen = Vec::new();
        loop {
            let done = writer.is_finished();
            if !reader.read(&mut seen).unwrap() && done {
                break;
            }
        }
        writer.join().unwrap();
        let text = String::from_utf8(seen).unwrap();
        let numbers = text.lines().map(|line| line.parse::<u32>().unwrap());
        assert!(numbers.eq(0..1_000_000));
    }
}
