//! Setting up, stopping and resetting queues (virtio 1.2 sections 2.6.1 and 4.2.2).

use vm_memory::{Bytes, GuestAddress};

use super::*;

#[test]
fn queues_are_set_up_only_between_features_ok_and_driver_ok() {
    let driver = Driver::new();
    assert!(!driver.try_queue(16, RINGS));
    driver.negotiate(VERSION_1);
    driver.go_live();
    assert!(
        !driver.try_queue(16, RINGS),
        "stopped, and cannot be enabled"
    );
}

#[test]
fn an_invalid_size_is_rejected() {
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    let max = driver.read(QUEUE_NUM_MAX);
    assert_eq!(max, 64);
    for size in [0, 3, 65, 128, 0x1_0000, 0x1_0010, u32::MAX] {
        assert!(!driver.try_queue(size, RINGS), "{size}");
    }
    for size in [1, 2, 64] {
        assert!(driver.try_queue(size, RINGS), "{size}");
    }
}

#[test]
fn a_misaligned_ring_is_rejected() {
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    for (ring, alignment) in [(0, 16), (1, 2), (2, 4)] {
        let mut rings = RINGS;
        rings[ring] += alignment / 2;
        assert!(!driver.try_queue(16, rings), "ring {ring}");
        rings[ring] += alignment / 2;
        assert!(driver.try_queue(16, rings), "ring {ring}");
    }
}

#[test]
fn a_ring_outside_memory_is_rejected() {
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    let end = 1 << 20;
    // The lengths with sixteen entries are 256, 38 and 134 bytes.
    for (ring, len) in [(0, 256), (1, 38), (2, 136)] {
        for outside in [end - len + 16, end, 1 << 40, !0xf] {
            let mut rings = RINGS;
            rings[ring] = outside;
            assert!(!driver.try_queue(16, rings), "{ring} at {outside:#x}");
        }
        let mut rings = RINGS;
        rings[ring] = end - len;
        assert!(driver.try_queue(16, rings), "{ring} at the end");
    }
    // After an invalid queue was rejected, a valid one is accepted.
    driver.try_queue(16, [0x1000, 0x2000, !0xf]);
    driver.go_live();
    driver.assert_served(0);
}

#[test]
fn writes_to_the_registers_of_a_ready_queue_are_ignored() {
    let driver = Driver::live(RING_RESET);
    driver.write(QUEUE_NUM, 8);
    driver.write(QUEUE_DESC_LOW, 0x7000);
    driver.write(QUEUE_DESC_HIGH, 0xffff);
    driver.assert_served(0);
}

#[test]
fn a_stopped_queue_is_not_accessed() {
    let driver = Driver::live(0);
    driver.assert_served(0);
    driver.write(QUEUE_READY, 0);
    assert_eq!(driver.read(QUEUE_READY), 0);
    // The driver owns its memory again.
    driver.offer(1);
    driver.write(QUEUE_NOTIFY, 0);
    let (ring, interrupts) = driver.stop();
    assert_eq!((ring.used_index(), interrupts), (1, 0));
}

#[test]
fn a_queue_that_does_not_exist_has_size_zero_and_cannot_be_enabled() {
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    for queue in [1, 7, u32::MAX] {
        driver.write(QUEUE_SEL, queue);
        assert_eq!(driver.read(QUEUE_NUM_MAX), 0);
        driver.write(QUEUE_READY, 1);
        assert_eq!(driver.read(QUEUE_READY), 0);
        driver.write(QUEUE_NOTIFY, queue);
    }
}

#[test]
fn queue_reset_is_offered_and_ignored_unless_accepted() {
    let driver = Driver::live(0);
    driver.write(DEVICE_FEATURES_SEL, 1);
    assert_eq!(
        driver.read(DEVICE_FEATURES) >> 8 & 1,
        1,
        "VIRTIO_F_RING_RESET"
    );
    driver.write(QUEUE_RESET, 1);
    assert_eq!((driver.read(QUEUE_READY), driver.read(QUEUE_RESET)), (1, 0));
    driver.assert_served(0);
}

#[test]
fn a_queue_can_be_reset_and_set_up_again_while_the_device_is_active() {
    let driver = Driver::live(RING_RESET);
    driver.assert_served(0);
    driver.assert_served(1);
    driver.write(QUEUE_RESET, 0);
    assert_eq!(driver.read(QUEUE_READY), 1, "only a value of 1 resets");
    driver.write(QUEUE_RESET, 1);
    assert_eq!((driver.read(QUEUE_READY), driver.read(QUEUE_RESET)), (0, 0));
    assert_eq!(driver.read(STATUS), READY);

    // Ring indices, size and addresses have their defaults.
    driver.write(QUEUE_READY, 1);
    assert_eq!(driver.read(QUEUE_READY), 1, "the default address is zero");
    driver.write(QUEUE_RESET, 1);
    for at in [RINGS[1], RINGS[2]] {
        driver
            .memory
            .write_slice(&[0; 256], GuestAddress(at))
            .unwrap();
    }
    assert!(driver.try_queue(16, RINGS));
    driver.assert_served(0);
    driver.assert_served(1);
}
