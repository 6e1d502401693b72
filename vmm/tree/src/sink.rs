use microagent_proto::tree::Entry;

use crate::TreeError;

/// The size of the pieces in which zeros are passed on, in bytes.
const ZEROS: usize = 64 << 10;

/// Receives a tree.
pub trait Sink {
    /// The next file. The content of a regular file follows.
    ///
    /// # Errors
    /// When it cannot be taken; the tree ends then.
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError>;

    /// The next part of the content of the last file.
    ///
    /// # Errors
    /// As for [`Sink::entry`].
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError>;

    /// `length` zeros, which are a hole in the last file.
    ///
    /// # Errors
    /// As for [`Sink::entry`].
    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        let zeros = vec![0; ZEROS];
        let mut left = length;
        while left > 0 {
            let part = left.min(ZEROS as u64);
            self.data(&zeros[..part as usize])?;
            left -= part;
        }
        Ok(())
    }
}
