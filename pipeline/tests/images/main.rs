//! Images made, pushed and saved by the tools that people use, built into root
//! file systems and compared with what those tools make of them.
//!
//! Needs root (to unpack with owners and devices, and to mount); without a
//! tool a test says so and skips.

// Clippy knows test functions, not what they call.
#![allow(clippy::unwrap_used)]

mod auth;
mod bundles;
mod front;
mod manifests;
mod mirrors;
mod mke2fs;
mod redirects;
mod registry;
mod sources;
mod support;
mod tokens;
mod trees;
