//! Reads a plain or compressed (gzip, zstd) tar to its end in one streaming pass: one thread
//! decompresses, another stores the uncompressed bytes and parses the members. Both run while the
//! input is still arriving.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::tar::decompress::{self, Compression};
use crate::tar::entry::Entry;
use crate::tar::feed::{PIECE, feed};
use crate::tar::reader::{TarError, TarReader};

/// The maximum number of bytes that all tars of an image, or one bundle, may unpack to. A larger
/// result is treated as a decompression bomb.
pub(crate) const MAX_UNPACKED: u64 = 64 << 30;

/// Why a tar could not be read.
#[derive(Debug)]
pub(crate) enum UnpackError<E> {
    /// It is compressed with this unsupported format.
    Compression(&'static str),
    /// The input cannot be read or decompressed.
    Input(io::Error),
    /// The decompressed data is not a valid tar.
    Tar(TarError),
    /// More than [`MAX_UNPACKED`] bytes were unpacked.
    TooLarge,
    /// The uncompressed tar could not be written.
    Output(io::Error),
    /// One of the caller's closures failed.
    Caller(E),
}

/// Counts the unpacked bytes of a tar.
pub(crate) struct Meter<'a> {
    /// The sum over all tars that share [`MAX_UNPACKED`].
    pub(crate) total: &'a AtomicU64,
    /// Called with the size of each piece of unpacked data.
    pub(crate) advance: &'a dyn Fn(u64),
}

/// Reads a tar. Every uncompressed byte, including those after the last member, is written to the
/// output that `open` returns, if any; every member is passed to `member`. Returns the output.
///
/// # Errors
/// [`UnpackError`]. The output then holds an incomplete tar.
pub(crate) fn unpack<K: Write, E>(
    input: impl BufRead + Send,
    meter: &Meter<'_>,
    open: impl FnOnce(Compression) -> Result<Option<K>, E>,
    member: impl FnMut(Entry) -> Result<(), E>,
) -> Result<Option<K>, UnpackError<E>> {
    let (first, input) = decompress::peek(input).map_err(UnpackError::Input)?;
    let compression =
        decompress::detect(&first).map_err(|foreign| UnpackError::Compression(foreign.0))?;
    let output = open(compression).map_err(UnpackError::Caller)?;
    if compression == Compression::None {
        return read(input, meter, output, member);
    }
    let (mut writer, reader) = feed();
    thread::scope(|scope| {
        let decompress = move || -> io::Result<()> {
            let mut decoder = decompress::reader(input, compression)?;
            let mut piece = vec![0; PIECE];
            while writer.has_reader() {
                match decoder.read(&mut piece) {
                    Ok(0) => break,
                    Ok(read) => writer.send(&piece[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        let decompressing = thread::Builder::new()
            .name("decompress".into())
            .spawn_scoped(scope, decompress)
            .map_err(|error| UnpackError::Input(no_thread(&error)))?;
        let result = read(reader, meter, output, member);
        let decompressed = decompressing.join().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that decompresses it has panicked",
            ))
        });
        match decompressed {
            // The tar's unexpected end is only a consequence of this error.
            Err(source) => Err(UnpackError::Input(source)),
            Ok(()) => result,
        }
    })
}

/// The error for a thread that cannot be started.
fn no_thread(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot start a thread: {error}"))
}

/// Reads an uncompressed tar.
fn read<K: Write, E>(
    input: impl Read,
    meter: &Meter<'_>,
    output: Option<K>,
    mut member: impl FnMut(Entry) -> Result<(), E>,
) -> Result<Option<K>, UnpackError<E>> {
    let tee = Tee {
        input,
        output,
        meter,
    };
    // The tar reader reads in small pieces.
    let mut reader = TarReader::new(BufReader::with_capacity(PIECE, tee));
    while let Some(entry) = reader.next_entry().map_err(failed)? {
        member(entry).map_err(UnpackError::Caller)?;
    }
    let tee = reader.finish().map_err(failed)?.into_inner();
    Ok(tee.output)
}

/// Sorts an error from reading through a [`Tee`]: the tar's, the input's, or the tee's own.
fn failed<E>(error: TarError) -> UnpackError<E> {
    let TarError::Read { source, .. } = error else {
        return UnpackError::Tar(error);
    };
    match source.downcast::<TeeError>() {
        Ok(TeeError::TooLarge) => UnpackError::TooLarge,
        Ok(TeeError::Output(error)) => UnpackError::Output(error),
        Err(source) => UnpackError::Input(source),
    }
}

/// Copies what is read from `input` to `output` and counts it.
struct Tee<'a, R, K> {
    input: R,
    output: Option<K>,
    meter: &'a Meter<'a>,
}

/// An error of a [`Tee`] itself rather than of its input.
#[derive(Debug, thiserror::Error)]
enum TeeError {
    #[error("the limit of unpacked data is exceeded")]
    TooLarge,
    #[error("the uncompressed tar could not be written")]
    Output(#[source] io::Error),
}

impl<R: Read, K: Write> Read for Tee<'_, R, K> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let bytes = read as u64;
        if self.meter.total.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_UNPACKED {
            return Err(io::Error::other(TeeError::TooLarge));
        }
        if let Some(output) = &mut self.output {
            output
                .write_all(&buffer[..read])
                .map_err(|error| io::Error::other(TeeError::Output(error)))?;
        }
        (self.meter.advance)(bytes);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn unpack_to<K: Write>(
        total: &AtomicU64,
        tar: &[u8],
        output: Option<K>,
    ) -> Result<Option<K>, UnpackError<Infallible>> {
        let advance = |_| {};
        let meter = Meter {
            total,
            advance: &advance,
        };
        unpack(tar, &meter, |_| Ok(output), |_| Ok(()))
    }

    #[test]
    fn unpacking_stops_at_the_size_limit() {
        let total = AtomicU64::new(MAX_UNPACKED - 1024);
        let unpacked = |tar: &[u8]| unpack_to(&total, tar, None::<Vec<u8>>);
        assert!(unpacked(&[0; 1024]).is_ok());
        assert!(matches!(unpacked(&[0]), Err(UnpackError::TooLarge)));
    }

    #[test]
    fn every_byte_is_written_including_those_after_the_end() {
        let tar = [&[0; 1024][..], b"rest"].concat();
        let shipped = zstd::encode_all(&tar[..], 1).unwrap();
        for input in [&tar, &shipped] {
            let written = unpack_to(&AtomicU64::new(0), input, Some(Vec::new()));
            assert_eq!(written.unwrap().unwrap(), tar);
        }
    }

    #[test]
    fn a_full_output_is_distinguished_from_a_broken_tar() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let full = unpack_to(&AtomicU64::new(0), &[0; 1024], Some(Full));
        let Err(UnpackError::Output(error)) = full else {
            panic!("not an output error");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let broken = unpack_to(&AtomicU64::new(0), &[1; 1024], None::<Full>);
        assert!(matches!(
            broken,
            Err(UnpackError::Tar(TarError::NoHeader { offset: 0 }))
        ));
    }
}
