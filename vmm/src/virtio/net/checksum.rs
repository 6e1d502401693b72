//! The Internet checksum (RFC 1071), for peers that do not compute it themselves.

use super::header::Header;

/// Computes the checksum that `header`, which was validated for this frame, requests. The field
/// already has the sum of the pseudo header (virtio 1.2 section 5.1.6.2).
pub fn complete(header: &Header, frame: &mut [u8]) {
    if !header.needs_checksum() {
        return;
    }
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    let Some(summed) = frame.get(start..) else {
        return;
    };
    // In UDP, zero means that there is no checksum; both stand for zero (RFC 768).
    let checksum = match !fold(sum(summed)) {
        0 => 0xffff,
        checksum => checksum,
    };
    if let Some(field) = frame.get_mut(field..field + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The sum of the big-endian 16-bit words; an odd last byte is the upper half of one. Words are
/// added in pairs: the carries between them are folded in later.
fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<4>();
    let pairs: u64 = pairs
        .iter()
        .map(|b| u64::from(u32::from_be_bytes(*b)))
        .sum();
    let rest = rest.iter().zip([24, 16, 8]);
    pairs
        + rest
            .map(|(&byte, shift)| u64::from(byte) << shift)
            .sum::<u64>()
}

/// Adds the carries until 16 bits are left.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needs(start: u16, offset: u16) -> Header {
        Header {
            flags: 1,
            csum_start: start,
            csum_offset: offset,
            ..Header::default()
        }
    }

    #[test]
    fn the_checksum_of_rfc_1071_is_found() {
        // The example of section 3, whose sum is 0xddf2.
        let mut frame = [0, 0, 0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7];
        complete(&needs(0, 0), &mut frame);
        assert_eq!(frame[..2], (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn zero_is_sent_as_its_other_form() {
        let mut frame = [0xff, 0xff, 0, 0];
        complete(&needs(0, 2), &mut frame);
        assert_eq!(frame[2..], [0xff, 0xff]);
    }

    #[test]
    fn a_frame_that_asks_for_none_keeps_its_bytes() {
        let mut frame = [1, 2, 3, 4];
        complete(&Header::default(), &mut frame);
        assert_eq!(frame, [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn a_receiver_finds_the_sum_right(
            mut frame in prop::collection::vec(any::<u8>(), 20..3000),
            start in 0u16..16,
            field in 0u16..2,
        ) {
            let at = usize::from(start + 2 * field);
            let pseudo_header = u16::from_be_bytes([frame[at], frame[at + 1]]);
            complete(&needs(start, 2 * field), &mut frame);
            // RFC 1071 section 1: the sum of everything, checksum and pseudo header included, is
            // all ones.
            let words = frame[usize::from(start)..].chunks(2);
            let sum = words.fold(u32::from(pseudo_header), |sum, word| {
                let high = u32::from(word[0]) << 8;
                let sum = sum + high + u32::from(*word.get(1).unwrap_or(&0));
                (sum & 0xffff) + (sum >> 16)
            });
            prop_assert_eq!(sum, 0xffff);
        }
    }
}
