//! Workspaces: VMs that are described once and then kept, started, entered and deleted.
//!
//! - [`spec`] is what a workspace is to be: one schema for `microagent.yaml`, for request JSON and
//!   for the manifest in the workspace's directory.
//! - [`dir`] is that directory, [`lock`] says whether its supervisor lives, [`event`] what happened
//!   to it, and [`state`] is computed from both.
//! - [`machine`] is a running VM; [`shim`] the process that keeps one for a workspace and outlives
//!   its caller; [`client`] talks to it.
//! - [`start`] leads from a manifest to what the shim is told.
//! - [`layer`] is what it has changed in its image, [`image_layout`] an image with that layer.
//! - [`result`] is how the workload ended; [`log`] has log files of bounded size, which [`follow`]
//!   reads to the end of the workspace; [`shell`] the words of commands that a user is told to run.
//! - [`view`] has the files of a workspace that does not run, read by [`root_fs`]; [`summary`] the
//!   digest of a tree.
//! - [`restart`] decides when a workspace that ended is started again.
//! - [`readiness`] and [`health`] ask the guest, with a time limit; [`verification`] compares what a
//!   workspace consists of with what was recorded.
//!
#![doc = include_str!("../../../docs/library.md")]

pub mod client;
pub mod dir;
pub mod environment;
pub mod event;
pub mod follow;
pub mod health;
pub mod image_layout;
pub mod layer;
pub mod lock;
pub mod log;
pub mod machine;
pub mod readiness;
pub mod restart;
pub mod result;
pub mod root_fs;
pub mod shell;
pub mod shim;
pub mod signal;
pub mod spec;
pub mod start;
pub mod state;
pub mod summary;
pub mod verification;
pub mod view;
