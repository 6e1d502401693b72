//! How much the guest's socket takes (virtio 1.2 section 5.10.6.3).
//!
//! All counters count bytes of one connection modulo 2^32, so differences are taken with wrapping
//! arithmetic. A driver that lies about them only changes what it is sent.

use std::collections::VecDeque;

/// A guest kernel's own cost of a packet in its receive buffer, rounded up. Linux from 6.12.92 on
/// charges it against the buffer and resets a stream that goes over, whatever credit is left.
const PACKET_COST: u32 = 1024;

/// The most packets that are on their way to one socket, however large its buffer.
const MAX_PACKETS: usize = 1024;

/// What has been sent to one socket of the guest, and what it has room for.
#[derive(Debug, Default)]
pub struct PeerCredit {
    buf_alloc: u32,
    fwd_cnt: u32,
    sent: u32,
    /// `sent` after each packet that the guest has not taken out of its buffer yet.
    packets: VecDeque<u32>,
}

impl PeerCredit {
    /// Learns from a packet's `buf_alloc` and `fwd_cnt`.
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

    /// Notes a packet of `len` bytes.
    pub fn sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
        self.packets.push_back(self.sent);
    }

    /// How many bytes the guest has read so far, modulo 2^32, as it says.
    pub fn fwd_cnt(&self) -> u32 {
        self.fwd_cnt
    }

    /// How many bytes may be sent now.
    pub fn available(&self) -> u32 {
        if self.packet_limited() {
            0
        } else {
            self.buf_alloc.saturating_sub(self.unread())
        }
    }

    /// Whether it is the number of packets alone that stops sending. The guest does not know of
    /// that limit, so it may not say when it has read: it must be asked.
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
    fn credit_is_the_buffer_less_what_was_not_read() {
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
    fn packets_in_flight_are_bounded_even_when_they_are_tiny() {
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
    fn a_driver_that_lies_gets_nothing() {
        let mut credit = PeerCredit::default();
        credit.update(4096, 7);
        assert_eq!(credit.available(), 0);
        credit.update(0, 0);
        assert_eq!(credit.available(), 0);
    }
}
