//! Extracts the ELF kernel from a bzImage, so that guests need not decompress it.
//!
//! A bzImage is a small program with a compressed vmlinux (boot.rst, `payload_offset` and
//! `payload_length`). If it is booted directly, each guest decompresses the vmlinux; on an emulated
//! CPU that takes longer than the rest of the kernel's startup. The extracted vmlinux boots through
//! its PVH entry point instead. If its compression is not supported, or it has no such entry point,
//! the bzImage is used.
//!
//! A kernel that is booted this way is not relocated (no KASLR), like every direct boot of a
//! vmlinux.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use microagent_cas::{Scratch, Store, StoreError};

use super::contents;
use super::image::{self, KernelImage};

/// Maximum size of an extracted vmlinux in bytes.
const MAX_VMLINUX: u64 = 512 << 20;

/// Memory limit for decompressing xz, in KiB. The kernel's build uses dictionaries of up to 32 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// Why the payload of a bzImage cannot be extracted.
#[derive(Debug)]
pub(super) enum PayloadError {
    /// It is damaged; the guest could not decompress it either.
    Damaged(io::Error),
    /// The store cannot be written.
    Store(StoreError),
}

/// Extracts the vmlinux in `bz_image`, whose first [`image::HEAD`] bytes are `head`; `None` if its
/// compression is not supported or it has no PVH entry point.
///
/// # Errors
/// [`PayloadError`].
pub(super) fn vmlinux(
    store: &Store,
    bz_image: &File,
    head: &[u8],
) -> Result<Option<Scratch>, PayloadError> {
    let Some((offset, length)) = range(head) else {
        return Ok(None);
    };
    let scratch = store.scratch().map_err(PayloadError::Store)?;
    let unpacked = match unpack(bz_image, offset, length, scratch.file()) {
        Ok(unpacked) => unpacked,
        Err(UnpackError::Write(error)) => {
            let error = StoreError::io("write to", scratch.path(), error);
            return Err(PayloadError::Store(error));
        }
        // A valid stream that needs more memory than the limit, or a filter that the decoder lacks.
        Err(UnpackError::Payload(error))
            if matches!(
                error.kind(),
                io::ErrorKind::OutOfMemory | io::ErrorKind::Unsupported
            ) =>
        {
            tracing::debug!(%error, "cannot extract the vmlinux; using the bzImage");
            return Ok(None);
        }
        Err(UnpackError::Payload(error)) => return Err(PayloadError::Damaged(error)),
    };
    Ok((unpacked && boots_as_pvh(scratch.file())).then_some(scratch))
}

/// The location of the payload in the file: offset and length in bytes.
fn range(head: &[u8]) -> Option<(u64, u64)> {
    let offset = image::setup_length(head)? + u64::from(image::u32_at(head, 0x248)?);
    Some((offset, u64::from(image::u32_at(head, 0x24c)?)))
}

enum UnpackError {
    Payload(io::Error),
    Write(io::Error),
}

/// Decompresses the payload. Returns whether its compression is supported; if so, its size is the
/// one stored at its end.
fn unpack(
    mut bz_image: &File,
    offset: u64,
    length: u64,
    mut to: &File,
) -> Result<bool, UnpackError> {
    let mut magic = [0; 6];
    let mut size = [0; 4];
    let Some(end) = offset.checked_add(length).filter(|_| length > 10) else {
        return Ok(false);
    };
    bz_image
        .read_exact_at(&mut magic, offset)
        .map_err(UnpackError::Payload)?;
    bz_image
        .read_exact_at(&mut size, end - 4)
        .map_err(UnpackError::Payload)?;
    bz_image
        .seek(SeekFrom::Start(offset))
        .map_err(UnpackError::Payload)?;
    // The uncompressed size follows the payload. In gzip it is part of the format itself.
    let packed = bz_image.take(length - 4);
    let mut reader: Box<dyn Read> = match magic {
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::new(packed).map_err(UnpackError::Payload)?)
        }
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(bz_image.take(length))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new_mem_limit(
            packed,
            false,
            XZ_MEMORY_KIB,
        )),
        _ => return Ok(false),
    };
    let mut buffer = vec![0; 256 << 10];
    let mut written = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackError::Payload(error)),
        };
        written += count as u64;
        if written > MAX_VMLINUX {
            return Ok(false);
        }
        io::Write::write_all(&mut to, &buffer[..count]).map_err(UnpackError::Write)?;
    }
    match u64::from(u32::from_le_bytes(size)) {
        expected if expected == written => Ok(true),
        expected => Err(UnpackError::Payload(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{written} bytes instead of {expected}"),
        ))),
    }
}

/// Whether the file is an ELF kernel with a PVH entry point, which every engine uses.
fn boots_as_pvh(mut file: &File) -> bool {
    let mut head = Vec::new();
    if file.rewind().is_err() || file.take(image::HEAD).read_to_end(&mut head).is_err() {
        return false;
    }
    matches!(image::identify(&head), Ok(KernelImage::Vmlinux { .. }))
        && contents::has_pvh_entry(file, &head)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A bzImage with this payload after its two setup sectors.
    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x248..0x24c].copy_from_slice(&0u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend(payload);
        file
    }

    fn unpacked(payload: &[u8]) -> Option<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bz_image(payload)).unwrap();
        let head = bz_image(payload);
        let (offset, length) = range(&head).unwrap();
        let mut to = tempfile::tempfile().unwrap();
        let good = matches!(unpack(&file, offset, length, &to), Ok(true));
        let mut bytes = Vec::new();
        to.rewind().unwrap();
        to.read_to_end(&mut bytes).unwrap();
        good.then_some(bytes)
    }

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend((size as u32).to_le_bytes());
        packed
    }

    /// Compresses with a tool and flags of the kernel's build (scripts/Makefile.lib).
    fn pack(tool: &str, flags: &[&str], content: &[u8]) -> Vec<u8> {
        let mut input = tempfile::NamedTempFile::new().unwrap();
        input.write_all(content).unwrap();
        let output = std::process::Command::new(tool)
            .args(flags)
            .stdin(File::open(input.path()).unwrap())
            .output()
            .unwrap_or_else(|error| panic!("this test requires {tool}: {error}"));
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn each_compression_of_the_kernels_build_is_unpacked() {
        let content: Vec<u8> = (0..3_000_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let size = content.len();
        let lz4 = pack("lz4", &["-l", "-9", "-c"], &content);
        assert_eq!(unpacked(&with_size(lz4, size)).as_ref(), Some(&content));
        let zstd = pack("zstd", &["-19", "-c", "-q"], &content);
        assert_eq!(unpacked(&with_size(zstd, size)).as_ref(), Some(&content));
        let xz = pack(
            "xz",
            &["--check=crc32", "--x86", "--lzma2=,dict=32MiB", "-c"],
            &content,
        );
        assert_eq!(unpacked(&with_size(xz, size)).as_ref(), Some(&content));
        assert_eq!(
            unpacked(&pack("gzip", &["-n", "-9", "-c"], &content)).as_ref(),
            Some(&content)
        );
    }

    #[test]
    fn a_payload_of_the_wrong_size_or_format_is_not_unpacked() {
        let lz4 = pack("lz4", &["-l", "-9", "-c"], b"some bytes that are a kernel");
        assert_eq!(unpacked(&with_size(lz4.clone(), 27)), None);
        assert_eq!(
            unpacked(&with_size(lz4[..lz4.len() - 3].to_vec(), 28)),
            None
        );
        assert_eq!(unpacked(b"an unknown format"), None);
        assert_eq!(unpacked(b""), None);
    }
}
