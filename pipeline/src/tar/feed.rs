//! A byte stream between two threads with a bounded buffer.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The size of a piece. Small enough that the allocator reuses freed pieces.
pub(crate) const PIECE: usize = 64 << 10;
/// The maximum number of pieces in the buffer: 1 MiB in total.
const MAX_PENDING: usize = 16;

/// The writing end.
#[derive(Debug)]
pub(crate) struct FeedWriter {
    /// `None` once the reader is dropped.
    sender: Option<SyncSender<Vec<u8>>>,
}

/// The reading end. Dropping the writer ends the stream; only the writer knows whether the stream
/// was complete.
#[derive(Debug)]
pub(crate) struct FeedReader {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

/// Creates a stream.
pub(crate) fn feed() -> (FeedWriter, FeedReader) {
    let (sender, receiver) = sync_channel(MAX_PENDING);
    let reader = FeedReader {
        receiver,
        piece: Vec::new(),
        at: 0,
    };
    let sender = Some(sender);
    (FeedWriter { sender }, reader)
}

impl FeedWriter {
    /// Sends bytes; blocks while the buffer is full. Does nothing once the reader is dropped.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Some(sender) = &self.sender
            && sender.send(bytes.to_vec()).is_err()
        {
            self.sender = None;
        }
    }

    /// Whether the reader still exists, as far as the last [`FeedWriter::send`] saw.
    pub(crate) fn has_reader(&self) -> bool {
        self.sender.is_some()
    }
}

impl BufRead for FeedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.piece.len().min(self.at + amount);
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let read = available.len().min(buffer.len());
        buffer[..read].copy_from_slice(&available[..read]);
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_dropping_the_writer_ends_the_stream() {
        let (mut writer, mut reader) = feed();
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 253) as u8).collect();
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in bytes.chunks(PIECE) {
                    writer.send(piece);
                }
                drop(writer);
            });
            reader.read_to_end(&mut read).unwrap();
        });
        assert!(read == bytes);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_writer_without_a_reader_does_not_block() {
        let (mut writer, reader) = feed();
        drop(reader);
        for _ in 0..100 {
            writer.send(b"x");
        }
        assert!(!writer.has_reader());
    }
}
