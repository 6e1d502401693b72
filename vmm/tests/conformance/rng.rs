//! The entropy device.

use microagent_vmm::virtio::rng::{MAX_BYTES, Rng};
use virtio_drivers::device::rng::VirtIORng;

use crate::memory::GuestPages;
use crate::{TransportKind, on_every_transport, with_each_ring_feature_set};

on_every_transport!(entropy_is_delivered);

fn entropy_is_delivered(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (device, _) = kind.attach(Box::new(Rng::new()), masked, 0);
        let mut driver = VirtIORng::<GuestPages, _>::new(device).unwrap();
        let (mut one, mut other) = ([0; 64], [0; 64]);
        assert_eq!(driver.request_entropy(&mut one).unwrap(), 64);
        assert_eq!(driver.request_entropy(&mut other).unwrap(), 64);
        // Equal with a probability of 2^-512.
        assert_ne!(one, other);
        assert_ne!(one, [0; 64]);

        let mut large = vec![0; 3 * MAX_BYTES];
        assert_eq!(driver.request_entropy(&mut large).unwrap(), MAX_BYTES);
        assert!(large[..MAX_BYTES].iter().any(|&byte| byte != 0));
        assert!(large[MAX_BYTES..].iter().all(|&byte| byte == 0));
    });
}
