//! What an uncompressed Linux kernel contains: its release, its entry points, and the built-in
//! drivers that a microVM requires.
//!
//! A driver registers under a name, which is a string in the kernel. So a kernel without that
//! string does not have the driver built in, whatever its configuration, which most distributions
//! do not embed (`CONFIG_IKCONFIG`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::image::{self, BannerSearch};

/// The size of a read, in bytes.
const CHUNK: usize = 256 << 10;

/// The maximum number of bytes of a note segment that are searched.
const MAX_NOTES: u64 = 64 << 10;

/// The drivers of [`super::module::REQUIRED`], and the strings under which they register: the names
/// of the platform driver, of two virtio drivers, and of the file system. The linker merges a
/// string with the end of a longer one, so only the final NUL is certain.
const DRIVERS: [(&str, &[u8]); 4] = [
    ("virtio_mmio", b"virtio-mmio\0"),
    ("virtio_blk", b"virtio_blk\0"),
    (
        "vmw_vsock_virtio_transport",
        b"vmw_vsock_virtio_transport\0",
    ),
    ("ext4", b"ext4\0"),
];

/// The longest string in [`DRIVERS`], in bytes.
const LONGEST: usize = 27;

/// The contents of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Its release, from the banner; `None` if it is not Linux.
    pub(crate) release: Option<String>,
    /// Whether it has a PVH entry point, the only one that engine `qemu` can use for an ELF kernel.
    pub(crate) has_pvh_entry: bool,
    /// The required drivers that are built in.
    pub(crate) drivers: Vec<&'static str>,
}

impl Contents {
    /// Reads an ELF kernel, whose first [`image::HEAD`] bytes are `head`.
    pub(crate) fn read(file: &File, head: &[u8]) -> io::Result<Contents> {
        let mut banner = BannerSearch::default();
        let mut found = [false; DRIVERS.len()];
        let mut window = Vec::with_capacity(CHUNK + LONGEST);
        let mut offset = 0;
        loop {
            let kept = window.len().min(LONGEST - 1);
            window.drain(..window.len() - kept);
            window.resize(kept + CHUNK, 0);
            let count = file.read_at(&mut window[kept..], offset)?;
            window.truncate(kept + count);
            if count == 0 {
                break;
            }
            offset += count as u64;
            banner.feed(&window[kept..]);
            for ((_, name), found) in DRIVERS.iter().zip(&mut found) {
                *found = *found || image::find(&window, name).is_some();
            }
        }
        let built_in = DRIVERS.iter().zip(found).filter(|(_, found)| *found);
        Ok(Contents {
            release: banner.finish(),
            has_pvh_entry: has_pvh_entry(file, head),
            drivers: built_in.map(|((module, _), _)| *module).collect(),
        })
    }

    /// The required drivers that are not built in; none for a kernel that is not Linux.
    pub(crate) fn missing_drivers(&self) -> Vec<&'static str> {
        if self.release.is_none() {
            return Vec::new();
        }
        DRIVERS
            .iter()
            .map(|(module, _)| *module)
            .filter(|module| !self.drivers.contains(module))
            .collect()
    }
}

/// Whether an ELF kernel, whose first [`image::HEAD`] bytes are `head`, has a PVH entry point.
pub(super) fn has_pvh_entry(file: &File, head: &[u8]) -> bool {
    image::note_segments(head)
        .into_iter()
        .any(|(offset, size)| {
            let mut notes = vec![0; size.min(MAX_NOTES) as usize];
            file.read_exact_at(&mut notes, offset).is_ok() && image::has_pvh_note(&notes)
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::kernel::module;

    #[test]
    fn every_required_driver_is_searched_for() {
        assert_eq!(DRIVERS.map(|(module, _)| module), module::REQUIRED);
        let longest = DRIVERS.iter().map(|(_, name)| name.len()).max();
        assert_eq!(longest, Some(LONGEST));
    }

    #[test]
    fn a_driver_is_found_wherever_its_name_is() {
        for before in [
            0,
            1,
            CHUNK - 14,
            CHUNK - 13,
            CHUNK - 1,
            CHUNK,
            2 * CHUNK - 5,
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![b'x'; before]).unwrap();
            file.write_all(b"virtio-mmio\0Linux version 6.1.0-x (y)\0ext4x\0")
                .unwrap();
            let contents = Contents::read(&file, &[]).unwrap();
            let expected = Contents {
                release: Some("6.1.0-x".to_owned()),
                has_pvh_entry: false,
                drivers: vec!["virtio_mmio"],
            };
            assert_eq!(contents, expected, "{before}");
            assert_eq!(
                contents.missing_drivers(),
                ["virtio_blk", "vmw_vsock_virtio_transport", "ext4"]
            );
        }
    }

    #[test]
    fn a_kernel_other_than_linux_is_not_missing_anything() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a unikernel").unwrap();
        let contents = Contents::read(&file, &[]).unwrap();
        assert_eq!(contents.missing_drivers(), [""; 0]);
    }
}
