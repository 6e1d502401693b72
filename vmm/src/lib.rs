//! The monitor: two engines that run vCPUs, one set of virtio devices, one supervisor process.

pub mod virtio;
