//! A driver's access to the virtio-mmio registers (virtio 1.2 sections 3.1.1 and 4.2.2). Offsets
//! and status bits are those of the kernel's headers, not of the transport under test.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};
pub use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG as CONFIG, VIRTIO_MMIO_CONFIG_GENERATION as CONFIG_GENERATION,
    VIRTIO_MMIO_DEVICE_FEATURES as DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL as DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID as DEVICE_ID,
    VIRTIO_MMIO_DRIVER_FEATURES as DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL as DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_INTERRUPT_ACK as INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS as INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE as MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_LOW as QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH as QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW as QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NOTIFY as QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM as QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX as QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY as QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL as QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_LOW as QUEUE_USED_LOW,
    VIRTIO_MMIO_SHM_BASE_HIGH as SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW as SHM_BASE_LOW,
    VIRTIO_MMIO_SHM_LEN_HIGH as SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW as SHM_LEN_LOW,
    VIRTIO_MMIO_SHM_SEL as SHM_SEL, VIRTIO_MMIO_STATUS as STATUS, VIRTIO_MMIO_VERSION as VERSION,
};

/// Not in the headers (section 4.2.2).
pub const QUEUE_RESET: u32 = 0xc0;

/// The status bits of a driver that has accepted its features.
pub const FEATURES_ACCEPTED: u32 =
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
/// The status bits of a driver that is ready.
pub const READY: u32 = FEATURES_ACCEPTED | VIRTIO_CONFIG_S_DRIVER_OK;

pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// The registers of one device.
pub trait Registers {
    fn read_register(&mut self, offset: u32) -> u32;
    fn write_register(&mut self, offset: u32, value: u32);

    /// The features that the device offers.
    fn offered_features(&mut self) -> u64 {
        (0..2).fold(0, |features, half| {
            self.write_register(DEVICE_FEATURES_SEL, half);
            features | u64::from(self.read_register(DEVICE_FEATURES)) << (32 * half)
        })
    }

    /// Writes the driver's features.
    fn write_features(&mut self, features: u64) {
        for half in 0..2 {
            self.write_register(DRIVER_FEATURES_SEL, half);
            self.write_register(DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }

    /// Resets the device and accepts these features. Panics if the device does not take them.
    fn negotiate(&mut self, features: u64) {
        for status in [
            0,
            VIRTIO_CONFIG_S_ACKNOWLEDGE,
            VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
        ] {
            self.write_register(STATUS, status);
        }
        self.write_features(features);
        self.write_register(STATUS, FEATURES_ACCEPTED);
        assert_eq!(self.read_register(STATUS), FEATURES_ACCEPTED);
    }

    /// Disables the queue, programs it with the addresses of descriptor table, available ring and
    /// used ring, and tries to enable it; whether `QueueReady` reads as 1 then.
    fn program_queue(&mut self, queue: u32, size: u32, addresses: [u64; 3]) -> bool {
        self.write_register(QUEUE_SEL, queue);
        self.write_register(QUEUE_READY, 0);
        self.write_register(QUEUE_NUM, size);
        let registers = [QUEUE_DESC_LOW, QUEUE_AVAIL_LOW, QUEUE_USED_LOW];
        for (register, address) in registers.into_iter().zip(addresses) {
            self.write_register(register, address as u32);
            self.write_register(register + 4, (address >> 32) as u32);
        }
        self.write_register(QUEUE_READY, 1);
        self.read_register(QUEUE_READY) == 1
    }
}
