//! Layers of synthetic files.

use std::io::{self, Read, Write};

use crate::layout::header;

/// The block size of the content, in bytes.
const BLOCK: usize = 4096;

/// Adds a file of `size` bytes. The first of every `period` blocks of 4 KiB is incompressible
/// noise; the others are zeros.
///
/// # Errors
/// When the archive cannot be written.
pub fn add_file(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    period: u64,
) -> io::Result<()> {
    let content = Content {
        left: size,
        period: period.max(1),
        block: 0,
        at: BLOCK,
        noise: Noise(size | 1),
        buffer: [0; BLOCK],
    };
    tar.append_data(&mut header(tar::EntryType::Regular, size), name, content)
}

/// Adds `files` files of 64 bytes, in directories of 1000 below `root`.
///
/// # Errors
/// When the archive cannot be written.
pub fn add_tree(tar: &mut tar::Builder<impl Write>, root: &str, files: u32) -> io::Result<()> {
    for number in 0..files {
        let directory = format!("{root}/directory-{:04}", number / 1000);
        if number % 1000 == 0 {
            let mut header = header(tar::EntryType::Directory, 0);
            tar.append_data(&mut header, format!("{directory}/"), io::empty())?;
        }
        let name = format!("{directory}/a-file-with-a-name-of-usual-length-{number:06}.txt");
        let content = format!("{number:063}\n");
        let mut header = header(tar::EntryType::Regular, content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())?;
    }
    Ok(())
}

struct Content {
    left: u64,
    period: u64,
    block: u64,
    /// The read position in `buffer`.
    at: usize,
    noise: Noise,
    buffer: [u8; BLOCK],
}

impl Read for Content {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if self.at == BLOCK {
            match self.block.is_multiple_of(self.period) {
                true => self.noise.fill(&mut self.buffer),
                false => self.buffer.fill(0),
            }
            self.block += 1;
            self.at = 0;
        }
        let available = &self.buffer[self.at..];
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let read = available.len().min(output.len()).min(left);
        output[..read].copy_from_slice(&available[..read]);
        self.at += read;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Xorshift64*: deterministic noise.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            eight.copy_from_slice(&word[..eight.len()]);
        }
    }
}
