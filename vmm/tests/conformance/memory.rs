//! Guest memory, and a page allocator for the driver's DMA.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, memfd_create};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The guest address of the memory. Not zero, which the driver treats as an allocation failure.
const BASE: u64 = 0x4000_0000;
const PAGES: usize = 8192;

thread_local! {
    /// The functions of `Hal` have no receiver. Each test runs in a thread of its own.
    static ARENA: RefCell<Arena> = RefCell::new(Arena::new());
}

/// Guest memory, allocated by pages.
pub struct Arena {
    memory: GuestMemoryMmap,
    allocated: Vec<bool>,
}

impl Arena {
    fn new() -> Arena {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len((PAGES * PAGE_SIZE) as u64).unwrap();
        let range = (
            GuestAddress(BASE),
            PAGES * PAGE_SIZE,
            Some(FileOffset::new(file, 0)),
        );
        Arena {
            memory: GuestMemoryMmap::from_ranges_with_files([range]).unwrap(),
            allocated: vec![false; PAGES],
        }
    }

    /// The memory of this test's guest.
    pub fn memory() -> GuestMemoryMmap {
        ARENA.with_borrow(|arena| arena.memory.clone())
    }

    fn allocate(&mut self, pages: usize) -> PhysAddr {
        let run = self
            .allocated
            .windows(pages)
            .position(|run| run.iter().all(|allocated| !allocated));
        let first = run.expect("guest memory is exhausted");
        self.allocated[first..first + pages].fill(true);
        BASE + (first * PAGE_SIZE) as u64
    }

    fn free(&mut self, address: PhysAddr, pages: usize) {
        let first = (address - BASE) as usize / PAGE_SIZE;
        assert!(
            self.allocated[first..first + pages]
                .iter()
                .all(|&allocated| allocated)
        );
        self.allocated[first..first + pages].fill(false);
    }
}

/// The driver's access to [`Arena`].
pub struct GuestPages;

// SAFETY: needed because the trait is unsafe. A page is allocated once until it is freed. The
// mapping lives as long as its thread and every clone of the memory, and is page-aligned, so pages
// are too.
unsafe impl Hal for GuestPages {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        ARENA.with_borrow_mut(|arena| {
            let address = arena.allocate(pages);
            let zeros = vec![0; pages * PAGE_SIZE];
            arena
                .memory
                .write_slice(&zeros, GuestAddress(address))
                .unwrap();
            let host = arena.memory.get_host_address(GuestAddress(address));
            (address, NonNull::new(host.unwrap()).unwrap())
        })
    }

    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        ARENA.with_borrow_mut(|arena| arena.free(address, pages));
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("used by PCI only")
    }

    /// The driver's buffers are not in guest memory, so they are copied there and back.
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        ARENA.with_borrow_mut(|arena| {
            let address = arena.allocate(buffer.len().div_ceil(PAGE_SIZE));
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: needed because the buffer comes as a pointer; the caller promises that
                // it is valid and not used by others meanwhile.
                let bytes = unsafe { buffer.as_ref() };
                arena
                    .memory
                    .write_slice(bytes, GuestAddress(address))
                    .unwrap();
            }
            address
        })
    }

    unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        ARENA.with_borrow_mut(|arena| {
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as in `share`.
                let bytes = unsafe { buffer.as_mut() };
                arena
                    .memory
                    .read_slice(bytes, GuestAddress(address))
                    .unwrap();
            }
            arena.free(address, buffer.len().div_ceil(PAGE_SIZE));
        });
    }
}
