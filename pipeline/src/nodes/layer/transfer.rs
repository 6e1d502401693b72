//! A layer's bytes from where the image is, exactly as many as the manifest says, over as many
//! connections as it takes.

use std::io;

use super::LayerError;
use crate::error::Error;
use crate::image::manifest::LayerDescriptor;
use crate::source::{LayerStream, Source};

/// How often in a row a transfer may break off with less than [`PROGRESS`].
const ATTEMPTS: u32 = 4;
/// A connection that broke off after so many bytes was worth it.
const PROGRESS: u64 = 1 << 20;

/// A transfer that is under way.
pub(super) struct Transfer<'a> {
    source: &'a dyn Source,
    layer: &'a LayerDescriptor,
    image: &'a str,
    stream: Option<LayerStream<'a>>,
    /// How much has been handed out, or was there before.
    got: u64,
    /// How much the present stream repeats, because its source cannot begin in the middle.
    skip: u64,
    /// What `got` was when the present stream began.
    begun: u64,
    failures: u32,
}

impl<'a> Transfer<'a> {
    /// A transfer of what follows the first `got` bytes.
    pub(super) fn new(
        source: &'a dyn Source,
        layer: &'a LayerDescriptor,
        image: &'a str,
        got: u64,
    ) -> Transfer<'a> {
        Transfer {
            source,
            layer,
            image,
            stream: None,
            got,
            skip: 0,
            begun: got,
            failures: 0,
        }
    }

    /// As many bytes as the buffer holds, fewer only at the end; 0 when all have come.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            if self.stream.is_none() {
                let (from, stream) = self.source.layer(self.layer, self.got)?;
                self.skip = self.got.saturating_sub(from);
                self.begun = self.got;
                self.stream = Some(stream);
            }
            let Some(stream) = &mut self.stream else {
                continue;
            };
            let read = match stream.read(buffer) {
                Ok(0) if self.got == self.layer.size && self.skip == 0 => return Ok(0),
                Ok(0) => {
                    self.broke_off(None)?;
                    continue;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.broke_off(Some(error))?;
                    continue;
                }
            };
            let repeated = usize::try_from(self.skip).unwrap_or(usize::MAX).min(read);
            self.skip -= repeated as u64;
            let fresh = read - repeated;
            if fresh == 0 {
                continue;
            }
            if self.got + fresh as u64 > self.layer.size {
                return Err(LayerError::TooLong {
                    layer: self.layer.digest,
                    image: self.image.to_owned(),
                    expected: self.layer.size,
                }
                .into());
            }
            buffer.copy_within(repeated..read, 0);
            self.got += fresh as u64;
            return Ok(fresh);
        }
    }

    /// A connection has ended too early: waits for the next attempt, or gives up.
    fn broke_off(&mut self, source: Option<io::Error>) -> Result<(), Error> {
        self.stream = None;
        self.failures = match self.got - self.begun >= PROGRESS {
            true => 1,
            false => self.failures + 1,
        };
        if self.failures >= ATTEMPTS || !self.source.may_recover() {
            return Err(LayerError::CutShort {
                layer: self.layer.digest,
                image: self.image.to_owned(),
                got: self.got,
                expected: self.layer.size,
                source,
            }
            .into());
        }
        self.source.pause(self.failures);
        Ok(())
    }
}
