//! Detects the compression of a layer or an archive and decompresses it.
//!
//! The magic number decides, not the media type: some registries hold layers
//! whose media type is wrong, and other unpackers check the magic number too.
//! The media type is used only for what has no magic number (encryption). A tar whose first name
//! begins with such a number is recognised by the checksum of its header.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::tar::reader::is_tar;

/// A supported compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    /// One or more gzip members (RFC 1952, section 2.2).
    Gzip,
    /// One or more Zstandard frames, skippable ones among them (RFC 8878).
    Zstd,
    /// One or more bzip2 streams.
    Bzip2,
    /// One or more xz streams.
    Xz,
}

/// An unsupported compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foreign(pub(crate) &'static str);

/// The number of bytes that [`detect`] needs: a tar header.
pub(crate) const MAGIC_LEN: usize = 512;

/// Detects the compression from the first bytes.
pub(crate) fn detect(first: &[u8]) -> Result<Compression, Foreign> {
    if is_tar(first) {
        return Ok(Compression::None);
    }
    match first {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Ok(Compression::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Compression::Xz),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err(Foreign("lz4")),
        [b'L', b'Z', b'I', b'P', ..] => Err(Foreign("lzip")),
        [0x1f, 0x9d, ..] => Err(Foreign("compress")),
        _ => Ok(Compression::None),
    }
}

/// Maximum memory for an xz stream in KiB: `xz -9` needs 64 MiB.
const XZ_MEMORY: u32 = 256 << 10;

/// The decompressed stream. Memory is bounded by the window of the format: 32 KiB for gzip, at most
/// 128 MiB for zstd (8 MiB in practice), 4 MiB for bzip2, [`XZ_MEMORY`] for xz.
pub(crate) fn reader<'a, R>(input: R, compression: Compression) -> io::Result<Box<dyn Read + 'a>>
where
    R: BufRead + 'a,
{
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Compression::Xz => {
            let decoder = lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY);
            // It fails once and then reports the end of the file.
            Box::new(Sticky {
                decoder,
                failed: false,
            })
        }
    })
}

/// Whether a stream of [`reader`] failed because the window of the data is above the limit.
pub(crate) fn needs_too_much_memory(error: &io::Error) -> bool {
    // The text of `ZSTD_error_frameParameter_windowTooLarge`; the crate keeps no code.
    error.to_string().contains("too much memory")
}

/// Repeats an error as often as it is asked.
struct Sticky<R> {
    decoder: R,
    failed: bool,
}

impl<R: Read> Read for Sticky<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = self.decoder.read(buffer);
        self.failed =
            (read.as_ref()).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// Reads the first bytes of a stream, also from short reads, and returns a stream that still has
/// them.
pub(crate) fn peek<R: BufRead>(mut input: R) -> io::Result<(Vec<u8>, impl BufRead)> {
    let mut first = Vec::with_capacity(MAGIC_LEN);
    input
        .by_ref()
        .take(MAGIC_LEN as u64)
        .read_to_end(&mut first)?;
    Ok((first.clone(), io::Cursor::new(first).chain(input)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(shipped: &[u8]) -> io::Result<Vec<u8>> {
        let (first, input) = peek(shipped)?;
        let mut data = Vec::new();
        reader(input, detect(&first).unwrap())?.read_to_end(&mut data)?;
        Ok(data)
    }

    #[test]
    fn every_member_of_a_gzip_stream_is_read() {
        let shipped = [gzip(b"one"), gzip(b""), gzip(b"two")].concat();
        assert_eq!(plain(&shipped).unwrap(), b"onetwo");
        assert!(plain(&[gzip(b"one"), b"garbage".to_vec()].concat()).is_err());
        assert!(plain(&gzip(b"some text that is cut")[..15]).is_err());
    }

    #[test]
    fn every_frame_of_a_zstd_stream_is_read_and_skippable_ones_are_skipped() {
        let frame = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let shipped = [skippable.clone(), frame(b"one"), skippable, frame(b"two")].concat();
        assert_eq!(plain(&shipped).unwrap(), b"onetwo");
        assert!(plain(&frame(b"cut")[..8]).is_err());
    }

    #[test]
    fn a_window_above_the_limit_is_distinguished_from_damage() {
        // A frame header (RFC 8878, section 3.1.1.1) with a window of 2^(10 + exponent) bytes, and
        // an empty last block.
        let frame =
            |exponent: u8| [b"\x28\xb5\x2f\xfd\0", &[exponent << 3][..], b"\x01\0\0"].concat();
        assert_eq!(plain(&frame(17)).unwrap(), b"");
        assert!(needs_too_much_memory(&plain(&frame(18)).unwrap_err()));
        assert!(!needs_too_much_memory(&plain(&frame(17)[..6]).unwrap_err()));
    }

    /// With the tools themselves, which the archives of images are compressed with.
    #[test]
    fn every_stream_of_bzip2_and_xz_is_read() {
        for program in ["bzip2", "xz"] {
            let compressed = |data: &[u8]| {
                let mut child = std::process::Command::new(program)
                    .arg("-c")
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                child.stdin.take().unwrap().write_all(data).unwrap();
                child.wait_with_output().unwrap().stdout
            };
            let shipped = [compressed(b"one"), compressed(b""), compressed(b"two")].concat();
            assert_eq!(plain(&shipped).unwrap(), b"onetwo", "{program}");
            let whole = compressed(&[b'x'; 100_000]);
            assert_eq!(plain(&whole).unwrap().len(), 100_000);
            assert!(plain(&whole[..whole.len() - 9]).is_err(), "{program}");
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            assert!(plain(&flipped).is_err(), "{program}");
        }
    }

    #[test]
    fn uncompressed_data_is_unchanged() {
        assert_eq!(plain(b"usr/bin").unwrap(), b"usr/bin");
        assert_eq!(plain(b"").unwrap(), b"");
        assert_eq!(detect(b"\x04\x22\x4d\x18xx"), Err(Foreign("lz4")));
        assert_eq!(detect(b"LZIP\x01x"), Err(Foreign("lzip")));
    }

    #[test]
    fn a_tar_whose_first_name_begins_with_a_magic_number_is_not_compressed() {
        for name in [
            &b"LZIPx"[..],
            b"BZh1x",
            b"\x1f\x9dz",
            b"\x1f\x8bz",
            b"\x28\xb5\x2f\xfdz",
            b"\xfd7zXZ",
            b"\x04\x22\x4d\x18",
        ] {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_size(0);
            header.set_cksum();
            let tar = header.as_bytes();
            assert_eq!(detect(tar), Ok(Compression::None), "{name:?}");
            assert_eq!(plain(tar).unwrap(), tar);
            // Without a header it is what the number says.
            assert_ne!(detect(&tar[..511]), Ok(Compression::None), "{name:?}");
        }
    }
}
