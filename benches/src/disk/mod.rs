//! Disk throughput of a guest: the same kernel, initramfs and raw file on our block device and on
//! QEMU's.
//!
//! | module | purpose |
//! |---|---|
//! | [`guest`] | the guest, which measures with its own clock |
//! | [`monitor`] | the four monitors that run it |
//! | [`lab`] | the monitors that need KVM, in the lab |
//! | [`host`] | the monitors without KVM, on this host |
//! | [`report`] | output |

pub mod guest;
pub mod host;
pub mod lab;
pub mod monitor;
pub mod report;
