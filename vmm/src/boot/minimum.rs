//! The memory that a guest needs to boot.
//!
//! Two conditions, each with its cause:
//!
//! - *loading*: the kernel is loaded at a fixed address, and the initramfs above it.
//! - *running*: the kernel's image, the initramfs twice (the archive, and what is unpacked from
//!   it), and what the kernel allocates until the agent runs a command. The latter grows with the
//!   kernel, because more of it is initialized, and with the number of CPUs.
//!
//! The coefficients are measurements: the smallest `--memory` with which `true` runs, found by
//! bisection on engine `qemu` with Linux 6.1. Images, initramfs and results in MiB:
//!
//! | kernel | image | ends at | initramfs | 1 CPU | 2 CPUs | 8 CPUs |
//! |---|---|---|---|---|---|---|
//! | `kernel build` | 16.1 | 32.1 | 1.8 | 34 | 34 | 36 |
//! | Debian's cloud kernel | 46 | 62 | 2.2 | 72 | 71 | 74 |
//!
//! The result is at most 2 MiB above these. `tests/tests/e2e/run_list.rs` boots guests with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{BootError, kernel, open, segments};

const MIB: u64 = 1 << 20;

/// What any kernel allocates, in bytes.
const BASE: u64 = 21 * MIB / 2;
/// What a kernel allocates for one CPU, in bytes.
const PER_CPU: u64 = 3 * MIB / 8;

/// What a kernel occupies in guest memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Image {
    length: u64,
    /// The address after it.
    end: u64,
}

/// The least memory in MiB with which `kernel` boots on `cpus` CPUs and runs a command. What the
/// command needs is not included.
///
/// # Errors
/// [`BootError::Read`] or [`BootError::NotAKernel`].
pub fn minimum_memory_mib(kernel: &Path, initramfs: &Path, cpus: u32) -> Result<u64, BootError> {
    let (_, initramfs) = open(initramfs)?;
    Ok(needed(image(kernel)?, initramfs, cpus).div_ceil(MIB))
}

fn needed(image: Image, initramfs: u64, cpus: u32) -> u64 {
    let to_load = image.end.saturating_add(initramfs);
    let to_run = image
        .length
        .saturating_add(image.length / 4)
        .saturating_add(2 * initramfs)
        .saturating_add(BASE + PER_CPU * u64::from(cpus));
    to_load.max(to_run)
}

fn image(path: &Path) -> Result<Image, BootError> {
    let (mut file, length) = open(path)?;
    if kernel::is_elf(&mut file, path)? {
        let segments = segments::loaded(&mut file).map_err(kernel::read_error(path))?;
        let start = segments.iter().map(|segment| segment.0).min();
        let end = segments.iter().map(|segment| segment.1).max();
        return match (start, end) {
            (Some(start), Some(end)) => Ok(Image {
                length: end - start,
                end,
            }),
            _ => Err(BootError::NotAKernel {
                path: path.to_owned(),
                why: "it has no segments".into(),
            }),
        };
    }
    let image = bzimage(&mut file, length).map_err(kernel::read_error(path))?;
    image.ok_or_else(|| BootError::NotAKernel {
        path: path.to_owned(),
        why: "it is neither ELF nor bzImage".into(),
    })
}

/// The fields of a bzImage's setup header (boot.rst); `None` if the file has none. Not every engine
/// says what is wrong with such a file.
fn bzimage(file: &mut File, length: u64) -> io::Result<Option<Image>> {
    const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
    const PREF_ADDRESS: usize = 0x258;
    const INIT_SIZE: usize = 0x260;
    let mut header = Vec::new();
    file.take(0x264).read_to_end(&mut header)?;
    let magic = header.get(MAGIC.0..MAGIC.0 + MAGIC.1.len());
    if magic != Some(MAGIC.1) {
        return Ok(None);
    }
    let word = |at: usize| {
        let bytes = header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        u64::from(bytes.map_or(0, u32::from_le_bytes))
    };
    let unpacked = word(INIT_SIZE).max(length);
    Ok(Some(Image {
        length: unpacked,
        end: word(PREF_ADDRESS).saturating_add(unpacked),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(value: f64) -> u64 {
        (value * MIB as f64) as u64
    }

    #[test]
    fn the_result_is_sufficient_and_close_to_what_was_measured() {
        let built = Image {
            length: mib(16.09),
            end: mib(32.09),
        };
        let cloud = Image {
            length: 46 * MIB,
            end: 62 * MIB,
        };
        for (image, initramfs, cpus, measured) in [
            (built, 1_873_204, 1, 34),
            (built, 1_873_204, 2, 34),
            (built, 1_873_204, 8, 36),
            (cloud, 2_317_588, 1, 72),
            (cloud, 2_317_588, 2, 71),
            (cloud, 2_317_588, 8, 74),
        ] {
            let minimum = needed(image, initramfs, cpus).div_ceil(MIB);
            assert!(
                (measured..=measured + 3).contains(&minimum),
                "{image:?} {cpus}: {minimum}"
            );
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        let mut header = vec![0; 0x264];
        for (bytes, is_kernel) in [(&b"HdrS"[..], true), (b"HdrX", false), (b"", false)] {
            header[0x202..0x202 + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&path, &header[..if bytes.is_empty() { 9 } else { 0x264 }]).unwrap();
            match image(&path) {
                Ok(_) => assert!(is_kernel),
                Err(error) => {
                    let text = format!("{error}");
                    assert!(text.ends_with("it is neither ELF nor bzImage"), "{text}");
                    assert!(!is_kernel && error.remediation().is_some());
                }
            }
        }
    }

    #[test]
    fn a_kernel_that_is_loaded_high_needs_the_memory_below_it() {
        let image = Image {
            length: MIB,
            end: 100 * MIB,
        };
        assert_eq!(needed(image, MIB, 1), 101 * MIB);
    }
}
