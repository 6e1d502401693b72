//! The network of a guest: the same kernel, initramfs and `passt` with our device and with QEMU's,
//! publishing, and what a network adds to `run`.
//!
//! | module | purpose |
//! |---|---|
//! | [`figures`] | what the measuring program prints (`tests/host/programs/net.c`) |
//! | [`measured`] | the measurement |
//! | [`client`] | that program against a server |
//! | [`namespace`] | two network namespaces: that of the monitors, and that of a server |
//! | [`lab`] | the same with KVM, in the lab |
//! | [`monitor`] | one boot with one of the compared monitors |
//! | [`commands`] | publishing, and the time of `run` |
//! | [`report`] | output |

pub mod client;
pub mod commands;
pub mod figures;
pub mod lab;
pub mod measured;
pub mod monitor;
pub mod namespace;
pub mod report;
