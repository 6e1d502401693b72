//! Requests of the block device (virtio 1.2 section 5.2.6).

use super::ring::{Buffer, readable, writable};

/// The header of a request: type, reserved, sector.
pub fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&kind.to_le_bytes());
    header[8..16].copy_from_slice(&sector.to_le_bytes());
    header
}

/// `struct virtio_blk_discard_write_zeroes`.
pub fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[0..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&count.to_le_bytes());
    range[12..16].copy_from_slice(&flags.to_le_bytes());
    range
}

/// The buffers of a request: the header at one address, the data, one status byte at another.
pub fn request(header_at: u64, data: &[Buffer], status_at: u64) -> Vec<Buffer> {
    let mut buffers = vec![readable(header_at, 16)];
    buffers.extend_from_slice(data);
    buffers.push(writable(status_at, 1));
    buffers
}
