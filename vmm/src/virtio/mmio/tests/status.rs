//! Device status and feature negotiation (virtio 1.2 sections 2.1, 2.2 and 3.1).

use super::*;

#[test]
fn status_bits_are_cleared_only_by_a_reset() {
    let driver = Driver::new();
    assert_eq!(driver.read(STATUS), 0);
    driver.write(STATUS, ACKNOWLEDGE);
    driver.write(STATUS, DRIVER);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
    driver.write(STATUS, NEEDS_RESET | 0x1000);
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER,
        "bits that a driver cannot set"
    );
    driver.write(STATUS, 0);
    assert_eq!(driver.read(STATUS), 0);
}

#[test]
fn features_ok_requires_driver() {
    let driver = Driver::new();
    driver.write(DRIVER_FEATURES_SEL, 1);
    driver.write(DRIVER_FEATURES, 1);
    driver.write(STATUS, FEATURES_OK);
    assert_eq!(driver.read(STATUS), 0);
}

#[test]
fn features_are_ignored_before_driver_and_after_features_ok() {
    let driver = Driver::new();
    // Written before DRIVER, VERSION_1 is not accepted.
    driver.write(DRIVER_FEATURES_SEL, 1);
    driver.write(DRIVER_FEATURES, 1);
    driver.write(STATUS, FEATURES_ACCEPTED);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
    // Written after FEATURES_OK, the event index is not accepted, so the flags are used.
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.write(DRIVER_FEATURES_SEL, 0);
    driver.write(DRIVER_FEATURES, EVENT_IDX as u32);
    driver.go_live();
    driver.assert_served(0);
    // With `used_event` of zero, there would be no interrupt for the second.
    driver.assert_served(1);
}

#[test]
fn an_unknown_feature_bit_is_not_accepted() {
    for bit in [33, 34, 35, 36, 37, 38, 39, 41, 63] {
        let driver = Driver::new();
        driver.write(STATUS, ACKNOWLEDGE | DRIVER);
        (&mut &driver).write_features(VERSION_1 | 1 << bit);
        driver.write(STATUS, FEATURES_ACCEPTED);
        assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER, "bit {bit}");
        // The driver may try again.
        driver.write(DRIVER_FEATURES, 1);
        driver.write(STATUS, FEATURES_ACCEPTED);
        assert_eq!(driver.read(STATUS), FEATURES_ACCEPTED);
    }
}

#[test]
fn a_failed_device_is_not_served_until_it_is_reset() {
    let driver = Driver::live(0);
    driver.write(STATUS, READY | FAILED);
    driver.offer(0);
    driver.write(QUEUE_NOTIFY, 0);
    let (ring, _) = driver.stop();
    assert_eq!(ring.used_index(), 0);

    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.write(STATUS, FEATURES_ACCEPTED | FAILED);
    driver.write(STATUS, FEATURES_ACCEPTED | FAILED | DRIVER_OK);
    assert_eq!(driver.read(STATUS), FEATURES_ACCEPTED | FAILED);
    driver.negotiate(VERSION_1);
    driver.go_live();
    driver.assert_served(0);
}

#[test]
fn an_invalid_ring_sets_needs_reset_and_notifies_the_driver() {
    let driver = Driver::live(0);
    driver.ring.set_available_index(17);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.interrupt(), 2, "the status changed");
    assert_eq!(driver.read(STATUS), READY | NEEDS_RESET);
    // Nothing is served until the reset.
    driver.offer(0);
    driver.write(STATUS, READY);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.read(STATUS), READY | NEEDS_RESET);
    assert_eq!(driver.ring.used_index(), 0);

    driver.negotiate(VERSION_1);
    assert_eq!(
        driver.read(INTERRUPT_STATUS),
        0,
        "a reset clears interrupts"
    );
    driver.offer(0);
    driver.go_live();
    assert_eq!(
        driver.interrupt(),
        1,
        "chains added before DRIVER_OK are served"
    );
    assert_eq!(driver.ring.used_index(), 1);
}

#[test]
fn a_reset_clears_queues_and_features() {
    let driver = Driver::live(EVENT_IDX | RING_RESET);
    driver.write(STATUS, 0);
    assert_eq!(
        (driver.read(QUEUE_READY), driver.read(INTERRUPT_STATUS)),
        (0, 0)
    );
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.write(STATUS, FEATURES_ACCEPTED);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
}

#[test]
fn features_that_are_not_offered_are_not_accepted() {
    let driver = Driver::new();
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.write(DRIVER_FEATURES_SEL, 1);
    driver.write(DRIVER_FEATURES, u32::MAX);
    driver.write(STATUS, FEATURES_ACCEPTED);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
}

#[test]
fn a_legacy_driver_is_not_accepted() {
    let driver = Driver::new();
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.write(STATUS, FEATURES_ACCEPTED);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
    driver.write(STATUS, READY);
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER,
        "DRIVER_OK requires FEATURES_OK"
    );
}
