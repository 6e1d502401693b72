//! What a disk gives a guest: the same kernel, initramfs and raw file behind our block device and
//! behind QEMU's own.
//!
//! | module | what it is |
//! |---|---|
//! | [`guest`] | what boots, and what it measures by its own clock |
//! | [`monitor`] | the four ways to run it |
//! | [`lab`] | those that need KVM, in the lab |
//! | [`host`] | those that need none |
//! | [`report`] | how it is shown |

pub mod guest;
pub mod host;
pub mod lab;
pub mod monitor;
pub mod report;
