//! The configuration space, `struct virtio_net_config` (virtio 1.2 section 5.1.4), and the
//! features.

use std::fmt;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};

use super::{Offloads, VirtioDevice};

/// The length of the configuration space, in bytes.
pub const LEN: usize = 12;

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// The minimum MTU that a device may report (virtio 1.2 section 5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

/// An address is a multicast address or all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a unicast address")]
pub struct NotUnicast;

impl Mac {
    /// A unicast address. Drivers do not accept others.
    ///
    /// # Errors
    /// [`NotUnicast`].
    pub fn new(octets: [u8; 6]) -> Result<Mac, NotUnicast> {
        if octets[0] & 1 != 0 || octets == [0; 6] {
            return Err(NotUnicast);
        }
        Ok(Mac(octets))
    }

    /// The octets, in transmission order.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The constant fields of the configuration space, for a front end that provides the space itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticConfig {
    /// The device's address.
    pub mac: Mac,
    /// The MTU in bytes, if the device reports one.
    pub mtu: Option<u16>,
}

impl StaticConfig {
    /// Reads the fields from a network device.
    pub fn read(device: &dyn VirtioDevice) -> StaticConfig {
        let mut config = [0; LEN];
        device.read_config(0, &mut config);
        let [mac @ .., _, _, _, _, low, high] = config;
        StaticConfig {
            mac: Mac(mac),
            mtu: Some(u16::from_le_bytes([low, high])).filter(|&mtu| mtu != 0),
        }
    }
}

/// The configuration space. Without an MTU the field is zero; the driver does not read it then.
pub fn config(mac: Mac, link_up: bool, mtu: Option<u16>) -> [u8; LEN] {
    let mut config = [0; LEN];
    config[..6].copy_from_slice(&mac.octets());
    config[6..8].copy_from_slice(&(if link_up { LINK_UP } else { 0 }).to_le_bytes());
    config[8..10].copy_from_slice(&1u16.to_le_bytes());
    config[10..].copy_from_slice(&mtu.unwrap_or(0).to_le_bytes());
    config
}

/// The features that every device offers, in both directions. They do not depend on the backend,
/// which is replaced while the driver keeps what it negotiated.
const FEATURES: [u32; 9] = [
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_GUEST_TSO6,
];

/// The features of a device that reports this MTU.
pub fn features(mtu: Option<u16>) -> u64 {
    let always = FEATURES.iter().map(|feature| 1 << feature).sum::<u64>();
    always | u64::from(mtu.is_some()) << VIRTIO_NET_F_MTU
}

/// What was negotiated with the driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The offloads that frames from the driver may request.
    pub tx: Offloads,
    /// The offloads that frames to the driver may request.
    pub rx: Offloads,
    /// A received frame may use several buffers.
    pub mergeable: bool,
}

impl Negotiated {
    /// From feature bits. Segmentation offloads require checksum offload (virtio 1.2 section
    /// 5.1.3.1) and are ignored without it.
    pub fn new(features: u64) -> Negotiated {
        let has = |feature: u32| features >> feature & 1 != 0;
        let tx = Offloads {
            checksum: has(VIRTIO_NET_F_CSUM),
            tso4: has(VIRTIO_NET_F_HOST_TSO4),
            tso6: has(VIRTIO_NET_F_HOST_TSO6),
        };
        let rx = Offloads {
            checksum: has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: has(VIRTIO_NET_F_GUEST_TSO6),
        };
        Negotiated {
            tx: tx.consistent(),
            rx: rx.consistent(),
            mergeable: has(VIRTIO_NET_F_MRG_RXBUF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_specified_layout() {
        let mac = Mac::new([2, 3, 4, 5, 6, 7]).unwrap();
        let up = config(mac, true, Some(1500));
        assert_eq!(up, [2, 3, 4, 5, 6, 7, 1, 0, 1, 0, 0xdc, 5]);
        let down = config(mac, false, None);
        assert_eq!(down, [2, 3, 4, 5, 6, 7, 0, 0, 1, 0, 0, 0]);
        assert_eq!(mac.to_string(), "02:03:04:05:06:07");
    }

    #[test]
    fn only_unicast_addresses_are_accepted() {
        assert_eq!(Mac::new([0; 6]), Err(NotUnicast));
        assert_eq!(Mac::new([1, 0, 0, 0, 0, 1]), Err(NotUnicast));
        assert!(Mac::new([0, 0, 0, 0, 0, 1]).is_ok());
    }

    #[test]
    fn the_features_have_the_specified_bits() {
        let offloads = 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
        let all = offloads | 1 << 5 | 1 << 15 | 1 << 16;
        assert_eq!(features(None), all);
        assert_eq!(features(Some(1500)), all | 1 << 3);
    }

    #[test]
    fn segmentation_requires_checksums() {
        let negotiated = Negotiated::new(1 << 7 | 1 << 11 | 1 << 15);
        assert_eq!(negotiated.tx, Offloads::default());
        assert_eq!(negotiated.rx, Offloads::default());
        assert!(negotiated.mergeable);
    }
}
