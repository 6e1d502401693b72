//! Reads a layer from its source: exactly as many bytes as the manifest declares, over several
//! connections if they break.

use std::io;

use super::{LayerError, LayerFailure};
use crate::image::manifest::LayerDescriptor;
use crate::source::{LayerStream, Source};

/// The maximum number of consecutive connections that break without progress.
const ATTEMPTS: u32 = 4;
/// After this many bytes, the next connection is opened without a pause: a server that ends every
/// connection after some data is not overloaded.
const NO_PAUSE: u64 = 64 << 10;

/// A transfer in progress.
pub(super) struct Transfer<'a> {
    source: &'a dyn Source,
    layer: &'a LayerDescriptor,
    image: &'a str,
    stream: Option<LayerStream<'a>>,
    /// The number of bytes returned so far, including those of an earlier transfer.
    received: u64,
    /// The number of bytes to skip because the source restarted the stream from the beginning.
    skip: u64,
    /// The value of `received` when the current stream began.
    begun: u64,
    failures: u32,
}

impl<'a> Transfer<'a> {
    /// A transfer of the bytes after the first `received`.
    pub(super) fn new(
        source: &'a dyn Source,
        layer: &'a LayerDescriptor,
        image: &'a str,
        received: u64,
    ) -> Transfer<'a> {
        Transfer {
            source,
            layer,
            image,
            stream: None,
            received,
            skip: 0,
            begun: received,
            failures: 0,
        }
    }

    /// Fills the buffer; returns fewer bytes only at the end, and 0 after it.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerFailure> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LayerFailure> {
        loop {
            if self.stream.is_none() && self.received > 0 && self.received == self.layer.size {
                // The digest decides. There is no range to ask for.
                return Ok(0);
            }
            if self.stream.is_none() {
                let (from, stream) = self.source.layer(self.layer, self.received)?;
                self.skip = self.received.saturating_sub(from);
                self.begun = self.received;
                self.stream = Some(stream);
            }
            let Some(stream) = &mut self.stream else {
                continue;
            };
            let read = match stream.read(buffer) {
                Ok(0) if self.received == self.layer.size && self.skip == 0 => return Ok(0),
                Ok(0) => {
                    self.interrupted(None)?;
                    continue;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.interrupted(Some(error))?;
                    continue;
                }
            };
            let repeated = usize::try_from(self.skip).unwrap_or(usize::MAX).min(read);
            self.skip -= repeated as u64;
            let fresh = read - repeated;
            if fresh == 0 {
                continue;
            }
            if self.received + fresh as u64 > self.layer.size {
                return Err(LayerError::TooLong {
                    layer: self.layer.digest,
                    image: self.image.to_owned(),
                    expected: self.layer.size,
                }
                .into());
            }
            buffer.copy_within(repeated..read, 0);
            self.received += fresh as u64;
            return Ok(fresh);
        }
    }

    /// Handles a broken connection: waits for the next attempt, or fails.
    fn interrupted(&mut self, source: Option<io::Error>) -> Result<(), LayerFailure> {
        self.stream = None;
        let progress = self.received - self.begun;
        self.failures = match progress > 0 {
            true => 0,
            false => self.failures + 1,
        };
        if self.failures >= ATTEMPTS || !self.source.may_recover() {
            return Err(LayerError::CutShort {
                layer: self.layer.digest,
                image: self.image.to_owned(),
                received: self.received,
                expected: self.layer.size,
                resumable: self.source.may_recover(),
                source,
            }
            .into());
        }
        if progress < NO_PAUSE {
            self.source.pause(self.failures.max(1));
        }
        Ok(())
    }
}
