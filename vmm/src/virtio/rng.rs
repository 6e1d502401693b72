//! The entropy device (virtio 1.2 section 5.4): one queue, whose buffers it fills with random bytes
//! from the host kernel (getrandom(2)).

use rustix::rand::{GetRandomFlags, getrandom};

use super::serve::serve_queue;
use super::{DeviceError, DeviceIo, VirtioDevice};

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 4;

const QUEUE_SIZES: [u16; 1] = [64];

/// The maximum for one request, in bytes, so that a request cannot keep the host busy. The driver
/// sends another for more (section 5.4.6.1: the device places one or more bytes).
pub const MAX_BYTES: usize = 4096;

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng {}

impl Rng {
    /// A new device.
    pub fn new() -> Rng {
        Rng {}
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn acknowledge(&mut self, _features: u64) {}

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        let Some((queue, mem)) = io.queue(index) else {
            return Ok(());
        };
        let mut failed = None;
        let served = serve_queue(queue, mem, |buffers| {
            let Ok(buffers) = buffers else { return 0 };
            let mut bytes = [0; MAX_BYTES];
            let wanted = buffers.writable.len().min(MAX_BYTES);
            match getrandom(&mut bytes[..wanted], GetRandomFlags::empty()) {
                Ok(n) => buffers.writable.copy_from(&bytes[..n]) as u32,
                Err(error) => {
                    failed = Some(error);
                    0
                }
            }
        })?;
        served.notify(index, io)?;
        failed.map_or(Ok(()), |error| Err(DeviceError::Io(error.into())))
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Driver, readable, writable};

    #[test]
    fn each_buffer_is_filled_with_other_bytes_up_to_the_limit() {
        let mut device = Rng::new();
        let mut driver = Driver::new(&device, 4 << 20);
        let (small, large) = (BUFFERS, BUFFERS + 0x1_0000);
        let heads = [
            driver.offer(0, &[writable(small, 16), writable(small + 32, 16)]),
            driver.offer(0, &[writable(large, 100_000)]),
            driver.offer(0, &[readable(small, 16)]),
        ];
        device.queue_event(0, &mut driver).unwrap();
        let used = driver.used(0);
        assert_eq!(
            used,
            [(heads[0], 32), (heads[1], MAX_BYTES as u32), (heads[2], 0)]
        );
        let (one, other) = (driver.read(small, 16), driver.read(small + 32, 16));
        // Equal with a probability of 2^-128.
        assert_ne!(one, other);
        assert_ne!(one, [0; 16]);
        assert_eq!(driver.read(small + 16, 16), [0; 16]);
        assert_eq!(driver.read(large + MAX_BYTES as u64, 16), [0; 16]);
        assert_eq!(driver.notified, [1]);
    }
}
