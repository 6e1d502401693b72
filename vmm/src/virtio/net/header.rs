//! The header of each frame, `struct virtio_net_hdr` (virtio 1.2 section 5.1.6), and its
//! validation.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::Offloads;

/// The length of a header, in bytes. It always includes `num_buffers`, because every driver has
/// accepted `VIRTIO_F_VERSION_1` (virtio 1.2 section 5.1.6.1).
pub const HEADER_LEN: usize = 12;

/// The minimum length of a frame, in bytes: two addresses and a type (IEEE 802.3, without padding).
pub const MIN_FRAME: usize = 14;

/// The maximum length of a frame, in bytes: the maximum IP packet, with a VLAN tag (virtio 1.2
/// section 5.1.6.3.1 requires buffers of this size, without the tag).
pub const MAX_FRAME: usize = 65_536 + MIN_FRAME + 4;

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;
const GSO_NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;

/// The offloads that a frame requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// `NEEDS_CSUM` and `DATA_VALID`.
    pub flags: u8,
    /// GSO type.
    pub gso_type: u8,
    /// Header-length hint, in bytes.
    pub hdr_len: u16,
    /// Maximum payload of each segment, in bytes.
    pub gso_size: u16,
    /// Offset in the frame at which checksumming starts.
    pub csum_start: u16,
    /// Offset of the checksum field from `csum_start`.
    pub csum_offset: u16,
    /// The number of chains that a received frame uses. Set only by the device.
    pub num_buffers: u16,
}

/// A header requests an offload that was not negotiated, or refers to bytes outside its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid frame header")]
pub struct InvalidHeader;

impl Header {
    /// Of a frame whose checksums are known to be right.
    pub fn valid() -> Header {
        Header {
            flags: DATA_VALID,
            ..Header::default()
        }
    }

    /// Decodes a header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Header {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: short(2),
            gso_size: short(4),
            csum_start: short(6),
            csum_offset: short(8),
            num_buffers: short(10),
        }
    }

    /// Encodes a header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let shorts = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (to, short) in bytes[2..].chunks_exact_mut(2).zip(shorts) {
            to.copy_from_slice(&short.to_le_bytes());
        }
        bytes
    }

    /// Whether the sender left the checksum to the receiver.
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// Validates the header of a frame of `len` bytes: every offload that it requests must be
    /// `allowed`, and its offsets within the frame (virtio 1.2 sections 5.1.6.2.1 and 5.1.6.4.1).
    /// Returns the header with all unused fields cleared, so backends need not validate it again.
    ///
    /// # Errors
    /// [`InvalidHeader`].
    pub fn checked(&self, len: usize, allowed: Offloads) -> Result<Header, InvalidHeader> {
        let mut header = Header::default();
        if self.needs_checksum() {
            let end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
            if !allowed.checksum || end > len {
                return Err(InvalidHeader);
            }
            header.flags = NEEDS_CSUM;
            header.csum_start = self.csum_start;
            header.csum_offset = self.csum_offset;
        }
        let segmentation = match self.gso_type {
            GSO_NONE => return Ok(header),
            GSO_TCPV4 => allowed.tso4,
            GSO_TCPV6 => allowed.tso6,
            // UDP fragmentation and ECN are not offered.
            _ => false,
        };
        // Segmentation requires NEEDS_CSUM, because each segment gets its own checksum.
        if !segmentation
            || !header.needs_checksum()
            || self.gso_size == 0
            || usize::from(self.hdr_len) > len
        {
            return Err(InvalidHeader);
        }
        header.gso_type = self.gso_type;
        header.gso_size = self.gso_size;
        header.hdr_len = self.hdr_len;
        Ok(header)
    }

    /// The header of a frame for the driver that uses `buffers` buffers, without flags that the
    /// driver did not accept (virtio 1.2 section 5.1.6.4.1).
    ///
    /// # Errors
    /// [`InvalidHeader`].
    pub fn to_driver(
        self,
        len: usize,
        accepted: Offloads,
        buffers: u16,
    ) -> Result<Header, InvalidHeader> {
        let mut header = self.checked(len, accepted)?;
        if accepted.checksum {
            header.flags |= self.flags & DATA_VALID;
        }
        header.num_buffers = buffers;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Offloads = Offloads {
        checksum: true,
        tso4: true,
        tso6: true,
    };

    fn summed(csum_start: u16, csum_offset: u16) -> Header {
        Header {
            flags: NEEDS_CSUM,
            csum_start,
            csum_offset,
            ..Header::default()
        }
    }

    fn segmented(gso_type: u8, gso_size: u16, hdr_len: u16) -> Header {
        Header {
            gso_type,
            gso_size,
            hdr_len,
            ..summed(34, 16)
        }
    }

    #[test]
    fn fields_have_the_specified_layout() {
        let bytes = [1, 4, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 10, 11];
        let header = Header::decode(&bytes);
        let expected = Header {
            flags: 1,
            gso_type: 4,
            hdr_len: 0x0302,
            gso_size: 0x0504,
            csum_start: 0x0706,
            csum_offset: 0x0908,
            num_buffers: 0x0b0a,
        };
        assert_eq!(header, expected);
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn the_checksum_field_must_be_within_the_frame() {
        assert_eq!(summed(34, 16).checked(52, ALL), Ok(summed(34, 16)));
        assert_eq!(summed(34, 16).checked(51, ALL), Err(InvalidHeader));
        assert_eq!(summed(0xffff, 0xffff).checked(60, ALL), Err(InvalidHeader));
        let none = Offloads::default();
        assert_eq!(summed(34, 16).checked(52, none), Err(InvalidHeader));
    }

    #[test]
    fn segmentation_must_be_negotiated_and_have_a_size() {
        let good = segmented(GSO_TCPV4, 1448, 66);
        assert_eq!(good.checked(3000, ALL), Ok(good));
        let six = segmented(GSO_TCPV6, 1448, 66);
        assert_eq!(six.checked(3000, ALL), Ok(six));
        let four = Offloads { tso6: false, ..ALL };
        assert_eq!(six.checked(3000, four), Err(InvalidHeader));
        for bad in [
            segmented(GSO_TCPV4, 0, 66),
            segmented(GSO_TCPV4, 1448, 3001),
            segmented(GSO_TCPV4 | 0x80, 1448, 66),
            segmented(3, 1448, 66),
            segmented(5, 1448, 66),
            Header { flags: 0, ..good },
        ] {
            assert_eq!(bad.checked(3000, ALL), Err(InvalidHeader), "{bad:?}");
        }
    }

    #[test]
    fn flags_that_the_driver_did_not_accept_are_cleared() {
        let valid = Header {
            flags: DATA_VALID,
            ..Header::default()
        };
        let none = Offloads::default();
        assert_eq!(valid.to_driver(60, ALL, 3).unwrap().encode()[0], DATA_VALID);
        let plain = valid.to_driver(60, none, 3).unwrap();
        assert_eq!((plain.flags, plain.num_buffers), (0, 3));
    }

    proptest! {
        #[test]
        fn a_valid_header_refers_only_to_bytes_of_the_frame(
            bytes: [u8; HEADER_LEN], small in 0u8..6, len in 0usize..200, allowed in 0u8..8
        ) {
            let allowed = Offloads {
                checksum: allowed & 1 != 0,
                tso4: allowed & 2 != 0,
                tso6: allowed & 4 != 0,
            };
            let mut header = Header::decode(&bytes);
            header.gso_type = small;
            header.csum_start %= 256;
            header.csum_offset %= 256;
            if let Ok(checked) = header.checked(len, allowed) {
                prop_assert!(usize::from(checked.hdr_len) <= len);
                if checked.flags != 0 {
                    prop_assert!(allowed.checksum);
                    let end = checked.csum_start + checked.csum_offset + 2;
                    prop_assert!(usize::from(end) <= len);
                }
                if checked.gso_type != GSO_NONE {
                    prop_assert!(checked.flags == NEEDS_CSUM && checked.gso_size > 0);
                }
                prop_assert_eq!(checked.checked(len, allowed), Ok(checked));
            }
        }
    }
}
