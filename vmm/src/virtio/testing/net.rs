//! Frames of the network device, and of the stream that it may be connected to.

use super::ring::{Buffer, readable};
use crate::virtio::net::HEADER_LEN;

/// A frame as it is on a stream: after its length.
pub fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// The buffers of a frame from the guest: the header at one address, the frame at another.
pub fn frame_buffers(header_at: u64, frame_at: u64, len: u32) -> [Buffer; 2] {
    [
        readable(header_at, HEADER_LEN as u32),
        readable(frame_at, len),
    ]
}
