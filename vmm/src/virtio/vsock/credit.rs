//! How much may be sent to a socket of the guest (virtio 1.2 section 5.10.6.3).
//!
//! All counters count bytes of one connection modulo 2^32, so differences use wrapping arithmetic.
//! A driver that reports wrong values affects only what it receives.

use std::collections::VecDeque;

/// The overhead of a packet in the receive buffer of the guest kernel, in bytes, rounded up. Linux
/// since 6.12.92 charges it to the buffer and resets a stream that exceeds it, even if credit is
/// left.
const PACKET_COST: u32 = 1024;

/// The maximum number of unread packets of one socket, for any buffer size.
const MAX_PACKETS: usize = 1024;

/// The credit of one socket of the guest.
#[derive(Debug, Default)]
pub struct PeerCredit {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
    /// `sent` after each packet that the guest has not read yet.
    packets: VecDeque<u32>,
}

impl PeerCredit {
    /// Updates the credit from a received packet.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.buf_alloc = buf_alloc;
        self.fwd_cnt = fwd_cnt;
        let unread = self.unread();
        while let Some(&end) = self.packets.front()
            && self.sent.wrapping_sub(end) >= unread
        {
            self.packets.pop_front();
        }
    }

    /// Records that a packet of `len` bytes was sent.
    pub fn sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
        self.packets.push_back(self.sent);
    }

    /// The number of bytes that the guest has reported as read, modulo 2^32.
    pub fn fwd_cnt(&self) -> u32 {
        self.fwd_cnt
    }

    /// The number of bytes that may be sent now.
    pub fn available(&self) -> u32 {
        if self.packet_limited() {
            0
        } else {
            self.buf_alloc.saturating_sub(self.unread())
        }
    }

    /// Whether only the packet limit prevents sending. The guest does not know that limit and may
    /// not send an update when it has read, so the update must be requested.
    pub fn packet_limited(&self) -> bool {
        let limit = (self.buf_alloc / PACKET_COST).clamp(1, MAX_PACKETS as u32);
        self.packets.len() >= limit as usize && self.unread() < self.buf_alloc
    }

    fn unread(&self) -> u32 {
        self.sent.wrapping_sub(self.fwd_cnt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_the_buffer_size_minus_unread_bytes() {
        let mut credit = PeerCredit::default();
        assert_eq!(credit.available(), 0);
        credit.update(100, 0);
        credit.sent(60);
        assert_eq!((credit.available(), credit.packet_limited()), (0, true));
        credit.update(4096, 0);
        assert_eq!(credit.available(), 4036);
        credit.update(4096, 50);
        assert_eq!(credit.available(), 4086);
    }

    #[test]
    fn counters_wrap() {
        let mut credit = PeerCredit {
            sent: u32::MAX - 9,
            ..PeerCredit::default()
        };
        credit.update(1 << 20, u32::MAX - 9);
        credit.sent(20);
        assert_eq!(credit.available(), (1 << 20) - 20);
        credit.update(1 << 20, 10);
        assert_eq!(credit.available(), 1 << 20);
        assert!(credit.packets.is_empty());
    }

    #[test]
    fn the_number_of_tiny_unread_packets_is_limited() {
        let mut credit = PeerCredit::default();
        credit.update(256 << 10, 0);
        let mut packets = 0;
        while credit.available() > 0 {
            credit.sent(1);
            packets += 1;
        }
        assert_eq!(packets, 256);
        assert!(credit.packet_limited());
        credit.update(256 << 10, 1);
        assert_eq!(credit.available(), (256 << 10) - 255);
    }

    #[test]
    fn inconsistent_counters_give_no_credit() {
        let mut credit = PeerCredit::default();
        credit.update(4096, 7);
        assert_eq!(credit.available(), 0);
        credit.update(0, 0);
        assert_eq!(credit.available(), 0);
    }
}
