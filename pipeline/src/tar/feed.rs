//! A stream that one thread writes and another reads, with a bound on what lies between them.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How much is handed over at once. Small enough for the allocator to use again.
pub(crate) const PIECE: usize = 64 << 10;
/// How many pieces wait at most: together 1 MiB.
const WAITING: usize = 16;

/// The end that is written.
#[derive(Debug)]
pub(crate) struct Feed {
    /// `None` once nobody reads any more.
    sender: Option<SyncSender<Vec<u8>>>,
}

/// The end that is read. A writer that is dropped, for whatever reason, is the end of the stream:
/// whether that was all of it, the writer knows.
#[derive(Debug)]
pub(crate) struct Fed {
    receiver: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

pub(crate) fn feed() -> (Feed, Fed) {
    let (sender, receiver) = sync_channel(WAITING);
    let fed = Fed {
        receiver,
        piece: Vec::new(),
        at: 0,
    };
    let sender = Some(sender);
    (Feed { sender }, fed)
}

impl Feed {
    /// Hands bytes on; waits while too much lies there. After the reader is gone it does nothing.
    pub(crate) fn give(&mut self, bytes: &[u8]) {
        if let Some(sender) = &self.sender
            && sender.send(bytes.to_vec()).is_err()
        {
            self.sender = None;
        }
    }

    /// Whether anybody reads.
    pub(crate) fn is_read(&self) -> bool {
        self.sender.is_some()
    }
}

impl BufRead for Fed {
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

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_the_end_is_the_end() {
        let (mut feed, mut fed) = feed();
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 253) as u8).collect();
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in bytes.chunks(PIECE) {
                    feed.give(piece);
                }
                drop(feed);
            });
            fed.read_to_end(&mut read).unwrap();
        });
        assert!(read == bytes);
        assert_eq!(fed.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_writer_without_a_reader_does_not_wait() {
        let (mut feed, fed) = feed();
        drop(fed);
        for _ in 0..100 {
            feed.give(b"x");
        }
        assert!(!feed.is_read());
    }
}
