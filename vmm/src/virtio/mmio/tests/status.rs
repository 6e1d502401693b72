//! Device status and feature negotiation (virtio 1.2 sections 2.1, 2.2 and 3.1).

use super::*;

#[test]
fn status_bits_are_only_ever_added_but_by_a_reset() {
    let driver = Driver::new();
    assert_eq!(driver.read(STATUS), 0);
    driver.write(STATUS, ACKNOWLEDGE);
    driver.write(STATUS, DRIVER);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
    driver.write(STATUS, NEEDS_RESET | 0x1000);
    assert_eq!(
        driver.read(STATUS),
        ACKNOWLEDGE | DRIVER,
        "not the driver's"
    );
    driver.write(STATUS, 0);
    assert_eq!(driver.read(STATUS), 0);
}

#[test]
fn features_ok_needs_a_driver() {
    let driver = Driver::new();
    driver.write(DRIVER_FEATURES_SEL, 1);
    driver.write(DRIVER_FEATURES, 1);
    driver.write(STATUS, FEATURES_OK);
    assert_eq!(driver.read(STATUS), 0);
}

#[test]
fn features_are_not_taken_before_driver_or_after_features_ok() {
    let driver = Driver::new();
    // Before DRIVER: VERSION_1 is not there when it is asked for.
    driver.write(DRIVER_FEATURES_SEL, 1);
    driver.write(DRIVER_FEATURES, 1);
    driver.write(STATUS, FEATURES_ACCEPTED);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
    // After FEATURES_OK: the event index is not negotiated, so flags decide.
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    driver.write(DRIVER_FEATURES_SEL, 0);
    driver.write(DRIVER_FEATURES, EVENT_IDX as u32);
    driver.go_live();
    driver.assert_served(0);
    // With an event index of zero in the ring the second would not be told.
    driver.assert_served(1);
}

#[test]
fn a_bit_that_does_not_exist_is_not_accepted() {
    for bit in [33, 34, 35, 36, 37, 38, 39, 41, 63] {
        let driver = Driver::new();
        driver.write(STATUS, ACKNOWLEDGE | DRIVER);
        (&mut &driver).write_features(VERSION_1 | 1 << bit);
        driver.write(STATUS, FEATURES_ACCEPTED);
        assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER, "bit {bit}");
        // It may choose again.
        driver.write(DRIVER_FEATURES, 1);
        driver.write(STATUS, FEATURES_ACCEPTED);
        assert_eq!(driver.read(STATUS), FEATURES_ACCEPTED);
    }
}

#[test]
fn a_device_that_its_driver_gave_up_is_not_served_until_it_is_reset() {
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

/// Ends the worker, which first deals with all it was told; what is left is memory.

#[test]
fn a_ring_that_breaks_makes_the_device_need_a_reset_and_says_so() {
    let driver = Driver::live(0);
    driver.ring.set_available_index(17);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.interrupt(), 2, "the status changed");
    assert_eq!(driver.read(STATUS), READY | NEEDS_RESET);
    // Nothing is served until the reset, whatever the driver writes.
    driver.offer(0);
    driver.write(STATUS, READY);
    driver.write(QUEUE_NOTIFY, 0);
    assert_eq!(driver.read(STATUS), READY | NEEDS_RESET);
    assert_eq!(driver.ring.used_index(), 0);

    driver.negotiate(VERSION_1);
    assert_eq!(
        driver.read(INTERRUPT_STATUS),
        0,
        "no interrupt outlives a reset"
    );
    driver.offer(0);
    driver.go_live();
    assert_eq!(driver.interrupt(), 1, "what was there before is served");
    assert_eq!(driver.ring.used_index(), 1);
}

#[test]
fn a_reset_forgets_queues_and_features() {
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
fn features_that_were_not_offered_are_not_accepted() {
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
        "DRIVER_OK needs FEATURES_OK"
    );
}
