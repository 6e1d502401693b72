//! The transport, through its registers, in most tests with the entropy device.

mod driver;
mod notifications;
mod queues;
mod status;

use proptest::prelude::*;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK, VIRTIO_CONFIG_S_FAILED as FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
};

use self::driver::{BUFFER, Driver, RINGS};
use crate::virtio::testing::registers::{
    CONFIG, CONFIG_GENERATION, DEVICE_FEATURES, DEVICE_FEATURES_SEL, DEVICE_ID, DRIVER_FEATURES,
    DRIVER_FEATURES_SEL, FEATURES_ACCEPTED, INTERRUPT_ACK, INTERRUPT_STATUS, MAGIC_VALUE,
    QUEUE_DESC_HIGH, QUEUE_DESC_LOW, QUEUE_NOTIFY, QUEUE_NUM, QUEUE_NUM_MAX, QUEUE_READY,
    QUEUE_RESET, QUEUE_SEL, READY, Registers, SHM_BASE_HIGH, SHM_BASE_LOW, SHM_LEN_HIGH,
    SHM_LEN_LOW, SHM_SEL, STATUS, VERSION, VERSION_1,
};

const EVENT_IDX: u64 = 1 << 29;
const RING_RESET: u64 = 1 << 40;

#[test]
fn identification_registers_describe_the_device() {
    let driver = Driver::new();
    assert_eq!(
        [MAGIC_VALUE, VERSION, DEVICE_ID].map(|offset| driver.read(offset)),
        [0x7472_6976, 2, 4]
    );
    driver.write(DEVICE_FEATURES_SEL, 1);
    assert_eq!(driver.read(DEVICE_FEATURES) & 1, 1, "VIRTIO_F_VERSION_1");
    driver.write(DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(DEVICE_FEATURES), 0);
    driver.write(QUEUE_SEL, 1);
    assert_eq!(driver.read(QUEUE_NUM_MAX), 0, "no second queue");
    assert_eq!(driver.read(SHM_LEN_LOW), u32::MAX, "no shared memory");
}

#[test]
fn there_are_no_shared_memory_regions() {
    let driver = Driver::new();
    for id in [0, 1, 255] {
        driver.write(SHM_SEL, id);
        assert_eq!(
            [SHM_LEN_LOW, SHM_LEN_HIGH, SHM_BASE_LOW, SHM_BASE_HIGH].map(|at| driver.read(at)),
            [u32::MAX; 4]
        );
    }
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_panics(
        accesses in prop::collection::vec(
            (any::<bool>(), prop_oneof![0u64..0x110, any::<u64>()], 0usize..9, any::<u32>()),
            0..200,
        ),
    ) {
        let driver = Driver::new();
        for (write, offset, width, value) in accesses {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&value.to_le_bytes());
            if write {
                driver.transport.write(offset, &bytes[..width]);
            } else {
                driver.transport.read(offset, &mut bytes[..width]);
            }
        }
        driver.negotiate(VERSION_1);
    }
}
