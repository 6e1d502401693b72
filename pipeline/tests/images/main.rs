//! Images created, pushed and saved by common tools, built into root file systems
//! and compared with what those tools unpack.
//!
//! Needs root, to unpack owners and devices and to mount. A test whose tool is
//! missing records that and skips.

// Clippy exempts test functions, but not the functions they call.
#![allow(clippy::unwrap_used)]

mod auth;
mod bundles;
mod formats;
mod golden;
mod manifests;
mod mirrors;
mod mke2fs;
mod redirects;
mod registry;
mod responses;
mod scripted_server;
mod sources;
mod support;
mod tokens;
mod trees;
