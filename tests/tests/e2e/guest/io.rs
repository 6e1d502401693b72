//! The guest program for disk I/O in the tests of the monitor. The test compiles it as a static
//! program and copies it to the disk. It has no dependencies: a single file for `rustc`.
//!
//! - `io mix DIRECTORY SECONDS`: four threads, each with a separate file, randomly write, read,
//!   truncate and sync; every read must return the last written data. Finally the page cache is
//!   dropped and everything is read again. Prints the number of operations.
//! - `io records FILE`: appends records endlessly and prints the number of each durable one.
//! - `io check FILE NUMBER`: checks that the first NUMBER records exist and are complete.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE: usize = 4 << 20;
const RECORD: usize = 4096;

/// A pseudo-random sequence (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["mix", directory, seconds] => mix(directory.into(), seconds.parse().unwrap()),
        ["records", file] => records(file.as_ref()),
        ["check", file, number] => check(file.as_ref(), number.parse().unwrap()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn mix(directory: PathBuf, seconds: u64) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let threads: Vec<_> = (1..=4)
        .map(|seed| {
            let path = directory.join(format!("mix{seed}"));
            std::thread::spawn(move || worker(&path, Random(seed * 0x9e37_79b9), end))
        })
        .collect();
    let mut operations = 0;
    for thread in threads {
        operations += thread.join().expect("a worker found something wrong")?;
    }
    println!("mixed {operations}");
    Ok(())
}

/// The number of operations done.
fn worker(path: &Path, mut random: Random, end: Instant) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
    let mut model: Vec<u8> = Vec::new();
    let mut operations = 0;
    while Instant::now() < end {
        let at = random.below(FILE - (64 << 10));
        let length = 1 + random.below(64 << 10);
        match random.below(10) {
            0..=4 => {
                let mut bytes = vec![0; length];
                random.fill(&mut bytes);
                file.write_all_at(&bytes, at as u64)?;
                if model.len() < at + length {
                    model.resize(at + length, 0);
                }
                model[at..at + length].copy_from_slice(&bytes);
            }
            5..=7 => same(&file, &model, at.min(model.len()), length),
            8 => {
                let cut = random.below(FILE);
                file.set_len(cut as u64)?;
                model.resize(cut, 0);
            }
            _ => file.sync_data()?,
        }
        operations += 1;
    }
    file.sync_all()?;
    // Needs root. The following reads are from the disk.
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    assert_eq!(file.metadata()?.len(), model.len() as u64);
    same(&file, &model, 0, model.len());
    Ok(operations)
}

fn same(file: &File, model: &[u8], at: usize, length: usize) {
    let expected = &model[at..model.len().min(at + length)];
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, at as u64).unwrap();
    assert!(found == expected, "{} bytes at {at} are not what was written", expected.len());
}

fn record(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; RECORD];
    Random(number.wrapping_mul(2) | 1).fill(&mut bytes[8..]);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn records(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let mut stdout = io::stdout();
    for number in 0.. {
        file.write_all(&record(number))?;
        file.sync_data()?;
        writeln!(stdout, "{number}")?;
    }
    Ok(())
}

fn check(path: &Path, count: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    for number in 0..count {
        let mut bytes = vec![0; RECORD];
        file.read_exact(&mut bytes)?;
        assert!(bytes == record(number), "record {number} is not what was written");
    }
    println!("all {count}");
    Ok(())
}
