//! The packet header, `struct virtio_vsock_hdr` (virtio 1.2 section 5.10.6).

/// The length of the header in bytes.
pub const HEADER_LEN: usize = 44;

/// The socket type of streams, the only one this device offers.
pub const TYPE_STREAM: u16 = 1;

/// The sender of a `SHUTDOWN` will receive no more data.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender of a `SHUTDOWN` will send no more data.
pub const SHUTDOWN_SEND: u32 = 2;

/// The operation of a packet (`enum virtio_vsock_op`, section 5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Requests a connection.
    Request = 1,
    /// Accepts a connection.
    Response = 2,
    /// Refuses or ends a connection.
    Reset = 3,
    /// Closes one or both directions.
    Shutdown = 4,
    /// Carries data.
    Data = 5,
    /// Reports the sender's buffer space.
    CreditUpdate = 6,
    /// Requests a `CreditUpdate`.
    CreditRequest = 7,
}

impl Op {
    /// The operation with this number.
    pub fn from_number(number: u16) -> Option<Op> {
        Some(match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// A packet header. The operation is a number, because a driver may send any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The sender's context identifier.
    pub src_cid: u64,
    /// The receiver's context identifier.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// The length of the data that follows, in bytes.
    pub len: u32,
    /// The socket type.
    pub kind: u16,
    /// The operation.
    pub op: u16,
    /// For `SHUTDOWN`: [`SHUTDOWN_RECEIVE`], [`SHUTDOWN_SEND`].
    pub flags: u32,
    /// The sender's buffer for this connection, in bytes.
    pub buf_alloc: u32,
    /// The number of bytes that the sender has removed from that buffer since the connection began,
    /// modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Decodes a header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
        let mut fields = Fields(bytes);
        Header {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            kind: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// Encodes a header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("the fields add up to HEADER_LEN");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_and_encoding_keep_all_44_bytes(bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform12(any::<u8>())) {
            let bytes: [u8; HEADER_LEN] = [&bytes[..], &rest[..]].concat().try_into().unwrap();
            prop_assert_eq!(Header::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn fields_have_the_specified_layout() {
        let header = Header {
            src_cid: 3,
            dst_port: 0x0102,
            kind: TYPE_STREAM,
            op: 5,
            fwd_cnt: 9,
            ..Header::default()
        };
        let bytes = header.encode();
        assert_eq!((bytes[0], bytes[20], bytes[21]), (3, 2, 1));
        assert_eq!((bytes[28], bytes[30], bytes[40]), (1, 5, 9));
    }
}
