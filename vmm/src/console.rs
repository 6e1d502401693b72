//! The guest's console output: a ring buffer that keeps the last lines for diagnosis and, on
//! request, a copy on the monitor's standard error.
//!
//! A guest can write without end, so the buffer never grows beyond [`CAPACITY`].

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The size of the ring buffer, in bytes.
const CAPACITY: usize = 64 << 10;

/// The console output so far. Clones share one buffer.
#[derive(Debug, Clone, Default)]
pub struct Console {
    ring: Arc<Mutex<VecDeque<u8>>>,
    copy_to_stderr: bool,
    severed: Arc<AtomicBool>,
}

impl Console {
    /// An empty console. With `copy_to_stderr`, output is also written to standard error at once.
    pub fn new(copy_to_stderr: bool) -> Console {
        Console {
            ring: Arc::default(),
            copy_to_stderr,
            severed: Arc::default(),
        }
    }

    /// Discards what is written from now on.
    pub fn sever(&self) {
        self.severed.store(true, Ordering::Relaxed);
    }

    /// The last complete lines, at most `limit` bytes, as text.
    pub fn tail(&self, limit: usize) -> String {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = ring.len().saturating_sub(limit);
        let bytes: Vec<u8> = ring.iter().skip(skip).copied().collect();
        let start = if skip == 0 {
            0
        } else {
            bytes
                .iter()
                .position(|&b| b == b'\n')
                .map_or(0, |newline| newline + 1)
        };
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.severed.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let overflow = (ring.len() + kept.len()).saturating_sub(CAPACITY);
        ring.drain(..overflow);
        ring.extend(kept);
        drop(ring);
        if self.copy_to_stderr {
            // A closed standard error must not break the console.
            let _ = io::stderr().write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_only_the_last_bytes() {
        let mut console = Console::new(false);
        for number in 0..20_000 {
            writeln!(console, "line {number}").unwrap();
        }
        assert_eq!(console.ring.lock().unwrap().len(), CAPACITY);
        assert!(
            console
                .tail(usize::MAX)
                .ends_with("line 19998\nline 19999\n")
        );
    }

    #[test]
    fn a_tail_starts_at_a_line() {
        let mut console = Console::new(false);
        write!(console, "first line\nsecond line\nthird").unwrap();
        assert_eq!(console.tail(20), "second line\nthird");
        assert_eq!(console.tail(100), "first line\nsecond line\nthird");
    }

    #[test]
    fn one_write_larger_than_the_ring_keeps_its_end() {
        let mut console = Console::new(false);
        console.write_all(&vec![b'x'; CAPACITY + 1]).unwrap();
        console.write_all(b"end").unwrap();
        let tail = console.tail(5);
        assert_eq!(tail, "xxend");
    }
}
