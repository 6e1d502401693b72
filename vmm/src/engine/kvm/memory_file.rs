//! Guest RAM in a file: one region after the other, without the MMIO hole. Pages that are zero are
//! holes.
//!
//! Each page that a restored guest writes costs a fault, and a copy of what the file has. Those of the file
//! that the first guest of a snapshot wrote are mostly those that the next one will write: they are copied
//! at once, before it runs ([`populate`]).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MmapRegion};

use super::super::EngineError;
use super::memory::{self, GuestRam};
use crate::snapshot::{Kind, StateError};

/// The unit of what is written or a hole, in bytes.
const PAGE: usize = 4096;

/// The smallest hole that is not mapped from the file, in bytes: each costs a mapping.
const HOLE: u64 = 1 << 20;

/// What the kernel tells of each page of this process (Documentation/admin-guide/mm/pagemap.rst).
const PAGEMAP: &str = "/proc/self/pagemap";

/// The length of an entry of it, in bytes.
const ENTRY: usize = 8;

/// The bits of an entry: the page is in memory, swapped out, of a file.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// How much is copied at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Writes RAM, which nothing changes meanwhile, to a file that is empty. `is_mapped` tells that it was
/// mapped from a file: otherwise what was never touched is zero, and is not read.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn save(memory: &GuestRam, is_mapped: bool, file: &File) -> Result<(), EngineError> {
    // Without it, everything is read.
    let pagemap = File::open(PAGEMAP).ok().filter(|_| !is_mapped);
    let write = || -> io::Result<()> {
        file.set_len(memory.iter().map(GuestMemoryRegion::len).sum())?;
        let mut buffer = vec![0; CHUNK];
        let mut position = 0;
        for region in memory.iter() {
            let mut address = region.start_addr();
            let mut left = region.len();
            while left > 0 {
                let length = left.min(CHUNK as u64);
                let host = memory.get_host_address(address).map_err(io::Error::other)?;
                if !pagemap
                    .as_ref()
                    .is_some_and(|it| is_untouched(it, host as u64, length))
                {
                    let chunk = &mut buffer[..length as usize];
                    memory
                        .read_slice(chunk, address)
                        .map_err(io::Error::other)?;
                    write_pages(chunk, position, file)?;
                }
                address.0 += length;
                position += length;
                left -= length;
            }
        }
        Ok(())
    };
    write().map_err(|source| EngineError::Io {
        operation: "write guest memory",
        source,
    })
}

/// Whether no page of these `length` bytes at `host`, at most [`CHUNK`], exists, in memory or swapped out. False if in
/// doubt.
fn is_untouched(pagemap: &File, host: u64, length: u64) -> bool {
    let mut entries = [0; CHUNK / PAGE * ENTRY];
    let entries = &mut entries[..length.div_ceil(PAGE as u64) as usize * ENTRY];
    let read = pagemap.read_exact_at(entries, host / PAGE as u64 * ENTRY as u64);
    let exists = |entry: &[u8; ENTRY]| u64::from_le_bytes(*entry) & (PRESENT | SWAPPED) != 0;
    read.is_ok() && !entries.as_chunks().0.iter().any(exists)
}

/// Writes those pages of `chunk` that are not zero, adjacent ones at once.
fn write_pages(chunk: &[u8], position: u64, file: &File) -> io::Result<()> {
    let mut run = 0..0;
    for page in chunk.chunks(PAGE) {
        if is_zero(page) {
            file.write_all_at(&chunk[run.clone()], position + run.start as u64)?;
            run = run.end + page.len()..run.end + page.len();
        } else {
            run.end += page.len();
        }
    }
    file.write_all_at(&chunk[run.clone()], position + run.start as u64)
}

fn is_zero(page: &[u8]) -> bool {
    let (parts, rest) = page.as_chunks();
    parts.iter().all(|part| u128::from_ne_bytes(*part) == 0) && rest.iter().all(|&byte| byte == 0)
}

/// Maps RAM of `bytes` from a file that begins with what [`save`] wrote. What the guest writes is private memory. The file must
/// not become shorter while the process exists: access to a page beyond its end kills it.
///
/// # Errors
/// When the file is shorter, or the host cannot map it.
pub(super) fn map(file: &File, bytes: u64) -> Result<GuestRam, EngineError> {
    let length = file.metadata().map_err(|source| EngineError::Io {
        operation: "read the file of guest memory",
        source,
    })?;
    if length.len() < bytes {
        return Err(EngineError::State(StateError::Value {
            kind: Kind::Shape,
            why: "the file of its memory is too short",
        }));
    }
    memory::map_regions(bytes, |length, position| map_region(file, length, position))
}

fn map_region(file: &File, length: usize, position: u64) -> io::Result<MmapRegion> {
    let start = memory::reserve(length)?;
    // SAFETY: needed because only madvise(2) selects the page size. Sound because the range was reserved
    // just now. The error is ignored: a kernel without huge pages needs no advice. A guest that runs one
    // command touches a few pages of many huge ones, each of which would be cleared as a whole.
    let _ = unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxNoHugepage) };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    let mut at = position;
    while let Some(data) = next_data(file, at, position + length as u64)? {
        at = data.end;
        let offset = (data.start - position) as usize;
        // SAFETY: needed because only mmap(2) maps a file. Sound because the range lies within the one
        // that was reserved by this process just now, and nothing refers to it yet.
        unsafe {
            rustix::mm::mmap(
                start.add(offset).cast(),
                (data.end - data.start) as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                file.as_fd(),
                data.start,
            )?;
        }
    }
    memory::region(start, length)
}

/// The next part of a file before `end` that is mapped: from data to a hole of at least [`HOLE`], in whole
/// pages. A larger hole is private memory, so that what the guest writes there is not copied.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    let seek = |to| match rustix::fs::seek(file, to) {
        Ok(found) => Ok(Some(found).filter(|&found| found < end)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(io::Error::from(error)),
    };
    let page = PAGE as u64;
    let Some(start) = seek(SeekFrom::Data(at))? else {
        return Ok(None);
    };
    let start = start / page * page;
    let mut last = start;
    loop {
        let hole = seek(SeekFrom::Hole(last))?.unwrap_or(end);
        let hole = hole.next_multiple_of(page).min(end);
        match seek(SeekFrom::Data(hole))? {
            Some(data) if data - hole < HOLE => last = data,
            _ => return Ok(Some(start..hole)),
        }
    }
}

/// The pages of RAM that were written since it was mapped, of those that the file has: runs of numbers,
/// in RAM without the MMIO hole.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn written(memory: &GuestRam, file: &File) -> io::Result<Vec<Range<u64>>> {
    let pagemap = File::open(PAGEMAP)?;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut position = 0;
    for region in memory.iter() {
        let host = memory
            .get_host_address(region.start_addr())
            .map_err(io::Error::other)? as u64;
        let mut at = position;
        let end = position + region.len();
        while let Some(data) = next_data(file, at, end)? {
            at = data.end;
            let first = data.start / PAGE as u64;
            let mut entries = vec![0; (data.end - data.start) as usize / PAGE * ENTRY];
            let address = host + (data.start - position);
            pagemap.read_exact_at(&mut entries, address / PAGE as u64 * ENTRY as u64)?;
            for (entry, number) in entries.as_chunks::<ENTRY>().0.iter().zip(first..) {
                let entry = u64::from_le_bytes(*entry);
                if entry & PRESENT == 0 || entry & OF_FILE != 0 {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.end == number => run.end += 1,
                    _ => runs.push(number..number + 1),
                }
            }
        }
        position = end;
    }
    Ok(runs)
}

/// Copies these pages of RAM that [`map`] mapped from `file`, as [`written`] names them, so that writing to
/// them causes no fault. It is not necessary, so it stops at the first that is not one of the file, or not
/// behind the one before, and ignores errors.
pub(super) fn populate(memory: &GuestRam, file: &File, runs: &[Range<u64>]) {
    let page = PAGE as u64;
    let mut runs = runs.iter().peekable();
    let mut position = 0;
    for region in memory.iter() {
        let (first, end) = (position, position + region.len());
        position = end;
        let Ok(host) = memory.get_host_address(region.start_addr()) else {
            return;
        };
        let mut at = first;
        while let Ok(Some(data)) = next_data(file, at, end) {
            let mut from = data.start / page;
            at = data.end;
            while let Some(run) = runs.next_if(|run| run.start < data.end / page) {
                if run.start < from || run.end <= run.start || run.end > data.end / page {
                    return;
                }
                from = run.end;
                let offset = (run.start - first / page) as usize * PAGE;
                let length = (run.end - run.start) as usize * PAGE;
                // SAFETY: needed because only madvise(2) does it. Sound because the range lies in a region
                // of guest memory, whose content the advice does not change. Kernels before Linux 5.14
                // refuse it.
                let _ = unsafe {
                    rustix::mm::madvise(host.add(offset).cast(), length, Advice::LinuxPopulateWrite)
                };
            }
        }
    }
}

/// Lets the host use huge pages from now on, also for what is already there.
pub(super) fn allow_huge_pages(memory: &GuestRam) {
    for_each_region(memory, |host, length| {
        // SAFETY: needed because only madvise(2) selects the page size. Sound because the range is guest
        // memory, whose content the advice does not change. A kernel without huge pages refuses it.
        let _ = unsafe { rustix::mm::madvise(host.cast(), length, Advice::LinuxHugepage) };
    });
}

/// Replaces RAM by empty private memory, so that it no longer uses the file. Nothing may use it any more.
pub(super) fn unmap(memory: &GuestRam) {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    for_each_region(memory, |host, length| {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: needed because only mmap(2) removes a mapping of a file. Sound because the range is guest
        // memory, which stays mapped, readable and writable; no vCPU and no device is left. An error
        // leaves it as it is.
        let _ = unsafe { rustix::mm::mmap_anonymous(host.cast(), length, protection, flags) };
    });
}

fn for_each_region(memory: &GuestRam, mut visit: impl FnMut(*mut u8, usize)) {
    for region in memory.iter() {
        if let Ok(host) = memory.get_host_address(region.start_addr()) {
            visit(host, region.len() as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::GuestAddress;

    use super::*;

    const BYTES: u64 = 8 << 20;

    #[test]
    fn what_is_saved_is_mapped_and_the_file_does_not_change() {
        let ram = memory::map_ram(BYTES).unwrap();
        let chunk = CHUNK as u64;
        let written = [
            (0, vec![1; 1]),
            (5 * 4096 - 1, vec![2; 2]),
            (chunk - 4096, vec![3; 8192]),
            (3 * chunk, vec![4; CHUNK]),
            (BYTES - 1, vec![5; 1]),
        ];
        for (address, bytes) in &written {
            ram.write_slice(bytes, GuestAddress(*address)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        save(&ram, false, &file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), BYTES);
        // 1, 2, 2, 64 and 1 pages.
        assert_eq!(file.metadata().unwrap().blocks() * 512, 70 * 4096);

        let mut expected = vec![0; BYTES as usize];
        ram.read_slice(&mut expected, GuestAddress(0)).unwrap();
        let mapped = map(&file, BYTES).unwrap();
        let mut got = vec![0; BYTES as usize];
        mapped.read_slice(&mut got, GuestAddress(0)).unwrap();
        assert!(got == expected);
        mapped.write_slice(&[9; 8192], GuestAddress(0)).unwrap();
        let again = map(&file, BYTES).unwrap();
        again.read_slice(&mut got, GuestAddress(0)).unwrap();
        assert!(got == expected);
    }

    #[test]
    fn pages_that_were_written_are_named_and_populated() {
        let ram = memory::map_ram(BYTES).unwrap();
        let page = PAGE as u64;
        for number in [0, 1, 2, 5, 1024] {
            ram.write_slice(&[1], GuestAddress(number * page)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        save(&ram, false, &file).unwrap();
        let mapped = map(&file, BYTES).unwrap();
        assert_eq!(written(&mapped, &file).unwrap(), []);
        // The last is a hole, and one that is not mapped; it is not copied from the file.
        for number in [1, 2, 1024, 1800] {
            mapped
                .write_slice(&[2], GuestAddress(number * page))
                .unwrap();
        }
        let runs = written(&mapped, &file).unwrap();
        assert_eq!(runs, [1..3, 1024..1025]);

        let next = map(&file, BYTES).unwrap();
        populate(&next, &file, &runs);
        assert_eq!(written(&next, &file).unwrap(), runs);
        let mut got = vec![0; BYTES as usize];
        next.read_slice(&mut got, GuestAddress(0)).unwrap();
        let ones: Vec<usize> = (0..got.len()).filter(|&at| got[at] != 0).collect();
        assert_eq!(ones, [0, 1, 2, 5, 1024].map(|number| number * PAGE));
        // Of another snapshot, or made up.
        let run = |start, end| Range { start, end };
        for made_up in [
            [run(2, 3), run(0, 1)],
            [run(9, 2), run(0, 1)],
            [run(2, 2), run(0, 1)],
            [run(0, 2000), run(0, 1)],
            [run(2000, u64::MAX), run(0, 1)],
            [run(u64::MAX, u64::MAX), run(0, 1)],
        ] {
            let other = map(&file, BYTES).unwrap();
            populate(&other, &file, &made_up);
            let populated = written(&other, &file).unwrap();
            let expected = if made_up[0] == run(2, 3) { 1 } else { 0 };
            assert_eq!(populated, made_up[..expected], "{made_up:?}");
        }

        unmap(&mapped);
        mapped.read_slice(&mut got, GuestAddress(0)).unwrap();
        assert!(got.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_was_never_touched_is_not_read() {
        let ram = memory::map_ram(BYTES).unwrap();
        ram.write_obj(7u8, GuestAddress(BYTES / 2)).unwrap();
        let (pagemap, host) = (
            File::open(PAGEMAP).unwrap(),
            ram.get_host_address(GuestAddress(0)).unwrap() as u64,
        );
        let untouched = |chunk: u64| is_untouched(&pagemap, host + chunk, CHUNK as u64);
        assert!(untouched(0) && !untouched(BYTES / 2));
        let file = tempfile::tempfile().unwrap();
        save(&ram, false, &file).unwrap();
        assert!(untouched(0));
        // What is of a file exists, whether it was touched or not.
        let mapped = map(&file, BYTES).unwrap();
        let again = tempfile::tempfile().unwrap();
        save(&mapped, true, &again).unwrap();
        let at = |file: &File| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, BYTES / 2).unwrap();
            byte[0]
        };
        assert_eq!((at(&file), at(&again)), (7, 7));
    }

    #[test]
    fn memory_on_both_sides_of_the_hole_is_saved() {
        let bytes = 3584 << 20;
        let ram = memory::map_ram(bytes).unwrap();
        let last = ram.last_addr();
        assert!(last.0 > bytes);
        ram.write_obj(7u8, GuestAddress(0)).unwrap();
        ram.write_obj(8u8, last).unwrap();
        let file = tempfile::tempfile().unwrap();
        save(&ram, false, &file).unwrap();
        let mapped = map(&file, bytes).unwrap();
        assert_eq!(mapped.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
        assert_eq!(mapped.read_obj::<u8>(last).unwrap(), 8);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = tempfile::tempfile().unwrap();
        for length in [0, BYTES - 1] {
            file.set_len(length).unwrap();
            let error = map(&file, BYTES).map(drop).unwrap_err();
            assert!(matches!(error, EngineError::State(_)), "{error:?}");
        }
    }
}
