//! The input of a hostile driver as numbers. The choices favour values that are nearly valid.

use super::harness::{BUFFERS, RINGS, STRIDE};
use super::memory::RANGES;

/// The input bytes; zeros after their end.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let n = N.min(self.0.len());
        array[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        array
    }

    /// An address: most often in the buffers, else near an end of memory, or any.
    pub fn address(&mut self) -> u64 {
        let [(a, a_len), (b, b_len)] = RANGES;
        let near = |at: u64, byte: u8| at.wrapping_add(byte.into()).wrapping_sub(128);
        match self.byte() % 16 {
            0..8 => BUFFERS + 64 * u64::from(self.byte()),
            8 | 9 => RINGS + u64::from(self.short()) % (3 * STRIDE),
            10 => near(a + a_len as u64, self.byte()),
            11 => near(b, self.byte()),
            12 => near(b + b_len as u64, self.byte()),
            13 => near(0, self.byte()),
            14 => self.short().into(),
            _ => self.long(),
        }
    }

    /// A length: most often small, else a few sectors, or any.
    pub fn length(&mut self) -> u32 {
        match self.byte() % 8 {
            0 | 1 => u32::from(self.byte() % 64),
            2 => 16,
            3 | 4 => 512 * u32::from(self.byte() % 9),
            5 => 44 + u32::from(self.byte()),
            6 => self.short().into(),
            _ => self.word(),
        }
    }
}
