//! A tar as it is shipped (plain, gzip or zstd), read to its end in one streaming pass: one thread
//! decompresses, another keeps the bytes and reads the members. Both work while the rest is still
//! on its way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::error::Error;
use crate::tar::decompress::{self, Compression};
use crate::tar::entry::Entry;
use crate::tar::feed::{PIECE, feed};
use crate::tar::reader::{TarError, TarReader};

/// The most bytes that the tars of one image, or one bundle, may unpack to: what a small
/// compressed file may cost before it is called a bomb.
pub(crate) const MAX_UNPACKED: u64 = 64 << 30;

/// Why a tar could not be read.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// It is compressed with this, which is not for us.
    Compression(&'static str),
    /// The input cannot be read, or not be decompressed.
    Input(io::Error),
    /// What was decompressed is no tar.
    Tar(TarError),
    /// More than [`MAX_UNPACKED`] bytes came.
    TooMuch,
    /// The bytes could not be kept.
    Keep(io::Error),
    /// What the caller's own closures say.
    Caller(Error),
}

/// What is done with the bytes of a tar on their way.
pub(crate) struct Watch<'a> {
    /// How many bytes have been unpacked, of all tars together.
    pub(crate) budget: &'a AtomicU64,
    /// Is told each number of unpacked bytes.
    pub(crate) tell: &'a dyn Fn(u64),
}

/// Reads a tar: every byte of it (what follows the last member too) goes to what `keep` opens, if
/// it opens anything, and every member to `member`. Gives back what `keep` opened.
pub(crate) fn unpack<K: Write>(
    input: impl BufRead + Send,
    watch: &Watch<'_>,
    keep: impl FnOnce(Compression) -> Result<Option<K>, Error>,
    member: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<Option<K>, UnpackError> {
    let (first, input) = decompress::peek(input).map_err(UnpackError::Input)?;
    let compression =
        decompress::detect(&first).map_err(|foreign| UnpackError::Compression(foreign.0))?;
    let kept = keep(compression).map_err(UnpackError::Caller)?;
    if compression == Compression::None {
        return read(input, watch, kept, member);
    }
    let (mut feed, fed) = feed();
    thread::scope(|scope| {
        let decompressing = scope.spawn(move || -> io::Result<()> {
            let mut reader = decompress::reader(input, compression)?;
            let mut piece = vec![0; PIECE];
            while feed.is_read() {
                match reader.read(&mut piece) {
                    Ok(0) => break,
                    Ok(read) => feed.give(&piece[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        let result = read(fed, watch, kept, member);
        let decompressed = decompressing.join().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that decompresses it has panicked",
            ))
        });
        match decompressed {
            // A tar that ends too early is only what follows from this.
            Err(source) => Err(UnpackError::Input(source)),
            Ok(()) => result,
        }
    })
}

/// Reads a tar that is not compressed, or not any more.
fn read<K: Write>(
    input: impl Read,
    watch: &Watch<'_>,
    kept: Option<K>,
    mut member: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<Option<K>, UnpackError> {
    let tee = Tee { input, kept, watch };
    // The tar reader asks for small pieces.
    let mut reader = TarReader::new(BufReader::with_capacity(PIECE, tee));
    while let Some(entry) = reader.next_entry().map_err(failed)? {
        member(entry).map_err(UnpackError::Caller)?;
    }
    let tee = reader.finish().map_err(failed)?.into_inner();
    Ok(tee.kept)
}

/// An error while reading through a [`Tee`]: the tar's, or one that came through it.
fn failed(error: TarError) -> UnpackError {
    let TarError::Read { source, .. } = error else {
        return UnpackError::Tar(error);
    };
    match source.downcast::<Stopped>() {
        Ok(Stopped::TooMuch) => UnpackError::TooMuch,
        Ok(Stopped::Keep(error)) => UnpackError::Keep(error),
        Err(source) => UnpackError::Input(source),
    }
}

/// Hands on what it reads, keeps it, and counts it.
struct Tee<'a, R, K> {
    input: R,
    kept: Option<K>,
    watch: &'a Watch<'a>,
}

/// Why a [`Tee`] gives an error that is not its input's.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("more was unpacked than may be")]
    TooMuch,
    #[error("it could not be kept")]
    Keep(#[source] io::Error),
}

impl<R: Read, K: Write> Read for Tee<'_, R, K> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let bytes = read as u64;
        if self.watch.budget.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_UNPACKED {
            return Err(io::Error::other(Stopped::TooMuch));
        }
        if let Some(kept) = &mut self.kept {
            kept.write_all(&buffer[..read])
                .map_err(|error| io::Error::other(Stopped::Keep(error)))?;
        }
        (self.watch.tell)(bytes);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched<T>(budget: &AtomicU64, test: impl FnOnce(&Watch<'_>) -> T) -> T {
        test(&Watch {
            budget,
            tell: &|_| {},
        })
    }

    #[test]
    fn what_unpacks_to_too_much_is_stopped_at_the_limit() {
        let budget = AtomicU64::new(MAX_UNPACKED - 1024);
        let unpacked = |tar: &[u8]| {
            watched(&budget, |watch| {
                unpack(tar, watch, |_| Ok(None::<Vec<u8>>), |_| Ok(()))
            })
        };
        assert!(unpacked(&[0; 1024]).is_ok());
        assert!(matches!(unpacked(&[0]), Err(UnpackError::TooMuch)));
    }

    #[test]
    fn every_byte_is_kept_also_behind_the_end() {
        let budget = AtomicU64::new(0);
        let tar = [&[0; 1024][..], b"rest"].concat();
        let shipped = zstd::encode_all(&tar[..], 1).unwrap();
        for input in [&tar, &shipped] {
            let kept = watched(&budget, |watch| {
                unpack(&input[..], watch, |_| Ok(Some(Vec::new())), |_| Ok(()))
            });
            assert_eq!(kept.unwrap().unwrap(), tar);
        }
    }

    #[test]
    fn a_place_that_is_full_is_told_apart_from_a_tar_that_is_broken() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let budget = AtomicU64::new(0);
        let full = watched(&budget, |watch| {
            unpack(&[0; 1024][..], watch, |_| Ok(Some(Full)), |_| Ok(()))
        });
        let Err(UnpackError::Keep(error)) = full else {
            panic!("not what was expected");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let broken = watched(&budget, |watch| {
            unpack(&[1; 1024][..], watch, |_| Ok(None::<Full>), |_| Ok(()))
        });
        assert!(matches!(
            broken,
            Err(UnpackError::Tar(TarError::NoHeader { offset: 0 }))
        ));
    }
}
