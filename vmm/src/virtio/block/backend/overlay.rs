//! A read-only raw image (the base), and a sparse delta that holds what is written.
//!
//! The delta is a file as large as the base. It holds whole blocks of [`BLOCK`] bytes; all others
//! are read from the base. [`Presence`] records which blocks it holds. A write to part of a block
//! that the delta does not hold first copies the rest of the block from the base (copy-up).
//!
//! A delta is either lost when the VM ends, or kept with its presence map. Of a kept delta, what
//! was not flushed may be lost in a crash: a block is then as it was before (a new block in the
//! delta whose bit is not stored is not seen), or as it was written.
//!
//! Blocks that are discarded or filled with zeros become holes in the delta, which hide the base.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::presence::{BLOCK, Presence};
use super::{Backend, zero};
use crate::virtio::Segments;

/// A base and its delta.
#[derive(Debug)]
pub struct Overlay {
    base: File,
    delta: File,
    len: u64,
    held: Presence,
    /// A flush has failed: what it should have made durable may be lost, and the host reports that
    /// only once.
    broken: bool,
}

impl Overlay {
    /// The disk in `base`, `len` bytes long (whole sectors), under the empty file `delta`, which is
    /// lost when the VM ends.
    ///
    /// # Errors
    /// When the delta cannot be extended to the size of the base.
    pub fn new(base: File, len: u64, delta: File) -> io::Result<Overlay> {
        Overlay::kept(base, len, delta, Presence::volatile(len))
    }

    /// The same under a `delta` of which `held` records the blocks.
    ///
    /// # Errors
    /// When the delta cannot be extended to the size of the base.
    pub fn kept(base: File, len: u64, delta: File, held: Presence) -> io::Result<Overlay> {
        delta.set_len(len)?;
        Ok(Overlay {
            base,
            delta,
            len,
            held,
            broken: false,
        })
    }

    /// The whole blocks within a range, as block numbers and as bytes. The last block of the disk
    /// counts as whole even if it is short.
    fn whole_blocks(&self, offset: u64, end: u64) -> (Range<u64>, Range<u64>) {
        let first = offset.div_ceil(BLOCK);
        let last = if end == self.len {
            end.div_ceil(BLOCK)
        } else {
            end / BLOCK
        };
        let last = last.max(first);
        (first..last, first * BLOCK..(last * BLOCK).min(end))
    }

    /// Fills whole blocks with zeros and frees them.
    fn zero_blocks(&mut self, blocks: Range<u64>, bytes: &Range<u64>) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        // Also blocks that are not held: a failed write may have left data in them.
        zero::zero(&self.delta, bytes.start, bytes.end - bytes.start, true)?;
        self.hold(blocks);
        Ok(())
    }

    fn hold(&mut self, blocks: Range<u64>) {
        blocks.for_each(|block| self.held.set(block));
    }

    /// Fills part of a block with zeros.
    fn zero_partial_block(&mut self, offset: u64, end: u64) -> io::Result<()> {
        let block = offset / BLOCK;
        self.copy_up(block, offset, end)?;
        zero::zero(&self.delta, offset, end - offset, false)?;
        self.held.set(block);
        Ok(())
    }

    /// Copies block `block` to the delta, if the delta does not hold it yet and a write to
    /// `[offset, end)` changes only part of it.
    fn copy_up(&mut self, block: u64, offset: u64, end: u64) -> io::Result<()> {
        let start = block * BLOCK;
        let block_end = (start + BLOCK).min(self.len);
        if self.held.get(block) || (offset <= start && block_end <= end) {
            return Ok(());
        }
        let mut bytes = [0; BLOCK as usize];
        let bytes = &mut bytes[..(block_end - start) as usize];
        self.base.read_exact_at(bytes, start)?;
        self.delta.write_all_at(bytes, start)?;
        self.held.set(block);
        Ok(())
    }
}

impl Backend for Overlay {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        false
    }

    fn durable(&self) -> bool {
        self.held.is_kept()
    }

    fn read_at(&mut self, mut into: Segments<'_>, mut offset: u64) -> io::Result<()> {
        while !into.is_empty() {
            let end = offset + into.len() as u64;
            let (held, run_end) = self.held.run(offset / BLOCK, end.div_ceil(BLOCK));
            let run = (run_end * BLOCK).min(end) - offset;
            let rest = into.split_off(run as usize);
            let file = if held { &self.delta } else { &self.base };
            into.read_at(file.as_fd(), offset)?;
            into = rest;
            offset += run;
        }
        Ok(())
    }

    fn write_at(&mut self, from: Segments<'_>, offset: u64) -> io::Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        let end = offset + from.len() as u64;
        let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
        self.copy_up(first, offset, end)?;
        self.copy_up(last, offset, end)?;
        from.write_at(self.delta.as_fd(), offset)?;
        // Only after the write: if it fails, blocks that were not held still read from the base.
        for block in first..=last {
            self.held.set(block);
        }
        Ok(())
    }

    /// Partial blocks are skipped; a copy-up is not worth it. If holes cannot be punched, nothing
    /// changes: writing zeros would take space instead of freeing it.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let (blocks, bytes) = self.whole_blocks(offset, offset + len);
        if !blocks.is_empty() && zero::punch(&self.delta, bytes.start, bytes.end - bytes.start)? {
            self.hold(blocks);
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        let end = offset + len;
        let (blocks, bytes) = self.whole_blocks(offset, end);
        if blocks.is_empty() {
            // Within one block, or the end of one block and the start of the next.
            let middle = bytes.start.clamp(offset, end);
            for (from, to) in [(offset, middle), (middle, end)] {
                if from < to {
                    self.zero_partial_block(from, to)?;
                }
            }
            return Ok(());
        }
        if offset < bytes.start {
            self.zero_partial_block(offset, bytes.start)?;
        }
        if bytes.end < end {
            self.zero_partial_block(bytes.end, end)?;
        }
        self.zero_blocks(blocks, &bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_kept() {
            if self.broken {
                return Err(rustix::io::Errno::IO.into());
            }
            self.broken = true;
            // First the blocks, then that they are there.
            self.delta.sync_data()?;
            self.held.store()?;
            self.broken = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::VolatileSlice;

    use super::*;

    fn file(content: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    /// A request that changes the disk.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Write(u8),
        Discard,
        Zero { unmap: bool },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<u8>().prop_map(Step::Write),
            1 => Just(Step::Discard),
            2 => any::<bool>().prop_map(|unmap| Step::Zero { unmap }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The model is an array to which the same steps are applied. A discarded sector is either
        /// unchanged or zero, and does not change again.
        #[test]
        fn it_reads_like_an_array_with_the_same_steps_applied(
            sectors in 1u64..100,
            steps in prop::collection::vec((any::<u64>(), 1u64..40, any_step()), 0..30),
        ) {
            let len = sectors * 512;
            let original: Vec<u8> = (0..len).map(|i| (i / 512) as u8 ^ i as u8 | 1).collect();
            let base = file(&original);
            let mut disk = Overlay::new(base.try_clone().unwrap(), len, file(&[])).unwrap();
            let mut expected = original.clone();
            for (at, count, step) in steps {
                let at = at % sectors;
                let count = count.min(sectors - at);
                let (from, to) = ((at * 512) as usize, ((at + count) * 512) as usize);
                let (offset, bytes) = (at * 512, count * 512);
                let mut back = vec![0xee; to - from];
                match step {
                    Step::Write(byte) => {
                        expected[from..to].fill(byte);
                        let mut data = vec![byte; to - from];
                        let data = VolatileSlice::from(&mut data[..]);
                        disk.write_at(data.into(), offset).unwrap();
                    }
                    Step::Zero { unmap } => {
                        expected[from..to].fill(0);
                        disk.write_zeroes(offset, bytes, unmap).unwrap();
                    }
                    Step::Discard => {
                        disk.discard(offset, bytes).unwrap();
                        let into = VolatileSlice::from(&mut back[..]);
                        disk.read_at(into.into(), offset).unwrap();
                        for (sector, was) in back.chunks(512).zip(expected[from..to].chunks_mut(512)) {
                            prop_assert!(sector == was || sector.iter().all(|&byte| byte == 0));
                            was.copy_from_slice(sector);
                        }
                    }
                }
                disk.read_at(VolatileSlice::from(&mut back[..]).into(), offset).unwrap();
                prop_assert_eq!(&back, &expected[from..to]);
            }
            let mut all = vec![0; len as usize];
            disk.read_at(VolatileSlice::from(&mut all[..]).into(), 0).unwrap();
            prop_assert_eq!(&all, &expected);
            let mut untouched = vec![0; len as usize];
            base.read_exact_at(&mut untouched, 0).unwrap();
            prop_assert_eq!(&untouched, &original);
        }
    }

    /// What a crash leaves of the two files.
    #[derive(Debug, Clone, Copy)]
    enum Crash {
        /// The process was killed: all that it wrote.
        Process,
        /// The host lost its power: of the delta all, of the presence map what was synced.
        Map,
        /// The same, and of the delta only what was synced.
        Host,
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Write(u8),
        Zero,
        Flush,
        Crash(Crash),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let crash = prop_oneof![Just(Crash::Process), Just(Crash::Map), Just(Crash::Host)];
        prop_oneof![
            6 => any::<u8>().prop_map(Event::Write),
            1 => Just(Event::Zero),
            2 => Just(Event::Flush),
            2 => crash.prop_map(Event::Crash),
        ]
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// After any crash, each sector is as at the last flush, or as it was written since then.
        #[test]
        fn nothing_that_was_flushed_is_lost(
            sectors in 1u64..60,
            events in prop::collection::vec((any::<u64>(), 1u64..20, any_event()), 1..30),
        ) {
            let len = sectors * 512;
            let original: Vec<u8> = (0..len).map(|i| (i / 512) as u8 | 1).collect();
            let base = file(&original);
            let open = |delta: &[u8], map: &[u8]| {
                let (delta, map) = (file(delta), file(map));
                let held = Presence::open(map.try_clone().unwrap(), len).unwrap();
                let files = (delta.try_clone().unwrap(), map);
                (Overlay::kept(base.try_clone().unwrap(), len, delta, held).unwrap(), files)
            };
            let (mut disk, mut files) = open(&[], &[]);
            let mut synced = (content(&files.0), content(&files.1));
            // The bytes that each sector may have after a crash.
            let first = |sector: u64| vec![original[sector as usize * 512]];
            let mut allowed: Vec<Vec<u8>> = (0..sectors).map(first).collect();
            for (at, count, event) in events {
                let at = at % sectors;
                let count = count.min(sectors - at);
                let (offset, bytes) = (at * 512, count * 512);
                let range = at as usize..(at + count) as usize;
                match event {
                    Event::Write(byte) => {
                        let mut data = vec![byte; bytes as usize];
                        let data = VolatileSlice::from(&mut data[..]);
                        disk.write_at(data.into(), offset).unwrap();
                        allowed[range].iter_mut().for_each(|values| values.push(byte));
                    }
                    Event::Zero => {
                        disk.write_zeroes(offset, bytes, true).unwrap();
                        allowed[range].iter_mut().for_each(|values| values.push(0));
                    }
                    Event::Flush => {
                        disk.flush().unwrap();
                        synced = (content(&files.0), content(&files.1));
                        for values in &mut allowed {
                            *values = values.split_off(values.len() - 1);
                        }
                    }
                    Event::Crash(crash) => {
                        let now = (content(&files.0), content(&files.1));
                        drop(disk);
                        (disk, files) = match crash {
                            Crash::Process => open(&now.0, &now.1),
                            Crash::Map => open(&now.0, &synced.1),
                            Crash::Host => open(&synced.0, &synced.1),
                        };
                        synced = (content(&files.0), content(&files.1));
                        let mut all = vec![0; len as usize];
                        disk.read_at(VolatileSlice::from(&mut all[..]).into(), 0).unwrap();
                        for (sector, values) in all.chunks(512).zip(&mut allowed) {
                            prop_assert!(sector.iter().all(|&byte| byte == sector[0]));
                            prop_assert!(values.contains(&sector[0]), "{:?} {}", values, sector[0]);
                            *values = vec![sector[0]];
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn discarded_blocks_hide_the_base_and_are_freed_in_the_delta() {
        use std::os::unix::fs::MetadataExt;
        const LEN: u64 = 8 << 20;
        let mut disk = Overlay::new(file(&vec![1; LEN as usize]), LEN, file(&[])).unwrap();
        let mut data = vec![7; LEN as usize / 2];
        disk.write_at(VolatileSlice::from(&mut data[..]).into(), 0)
            .unwrap();
        let full = disk.delta.metadata().unwrap().blocks() * 512;
        assert!(full >= LEN / 2);
        // A quarter that the delta holds, and one that only the base has.
        disk.discard(LEN / 4, LEN / 2).unwrap();
        let freed = full - disk.delta.metadata().unwrap().blocks() * 512;
        assert!(freed >= LEN / 4 - (64 << 10), "{freed}");
        let mut all = vec![9; LEN as usize];
        disk.read_at(VolatileSlice::from(&mut all[..]).into(), 0)
            .unwrap();
        let quarter = LEN as usize / 4;
        for (at, byte) in [7, 0, 0, 1].into_iter().enumerate() {
            let got = &all[at * quarter..(at + 1) * quarter];
            assert!(got.iter().all(|&b| b == byte), "quarter {at}");
        }
    }

    #[test]
    fn a_discard_writes_nothing_where_holes_cannot_be_punched() {
        // It supports no holes, and every write to it fails.
        let full = || File::options().read(true).write(true).open("/dev/full");
        let mut disk = Overlay {
            base: file(&[1; 4096]),
            delta: full().unwrap(),
            len: 4096,
            held: Presence::volatile(4096),
            broken: false,
        };
        disk.discard(0, 4096).unwrap();
        let mut data = [0; 4096];
        disk.read_at(VolatileSlice::from(&mut data[..]).into(), 0)
            .unwrap();
        assert_eq!(data, [1; 4096]);
        assert!(disk.write_zeroes(0, 4096, true).is_err());
    }

    #[test]
    fn the_delta_stays_sparse() {
        use std::os::unix::fs::MetadataExt;
        let base = tempfile::tempfile().unwrap();
        base.set_len(1 << 30).unwrap();
        let mut disk = Overlay::new(base, 1 << 30, tempfile::tempfile().unwrap()).unwrap();
        let mut data = [7; 512];
        disk.write_at(VolatileSlice::from(&mut data[..]).into(), 1 << 29)
            .unwrap();
        assert_eq!(disk.delta.metadata().unwrap().len(), 1 << 30);
        assert!(disk.delta.metadata().unwrap().blocks() * 512 <= 64 << 10);
    }

    #[test]
    fn reading_from_a_base_that_shrank_is_an_error() {
        let base = file(&[1; 4096]);
        let mut disk = Overlay::new(base.try_clone().unwrap(), 4096, file(&[])).unwrap();
        base.set_len(512).unwrap();
        let mut data = [0; 4096];
        let error = disk
            .read_at(VolatileSlice::from(&mut data[..]).into(), 0)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
