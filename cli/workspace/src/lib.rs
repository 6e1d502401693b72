//! Workspaces: VMs that are described once and then kept, started, entered and deleted.
//!
//! - [`spec`] is what a workspace is to be: one schema for `microagent.yaml`, for request JSON and
//!   for the manifest in the workspace's directory.
//! - [`dir`] is that directory, [`lock`] says whether its supervisor lives, [`event`] what happened
//!   to it, and [`state`] is computed from both.
//! - [`machine`] is a running VM; [`shim`] the process that keeps one for a workspace and outlives
//!   its caller; [`client`] talks to it.
//! - [`passed`] is what a guest takes from its host on request: proxies, certificates.
//! - [`plan`] checks that the values of a specification fit together.
//! - [`prepare`] finds or builds what its VM boots, as the [`command`] says what that runs.
//! - [`disk_image`] checks disks of the user; [`sparse`] copies disks.
//! - [`provision`] copies files of the host into it.
//! - [`creation`] makes its directory, and holds in the store what it consists of.
//! - [`start`] leads from a manifest to what the shim is told; [`short_boot`] boots a workspace for its
//!   files alone.
//! - [`layer`] is what it has changed in its image, [`image_layout`] an image with that layer.
//! - [`network`] is the host side of a VM's network device.
//! - [`result`] is how the workload ended; [`log`] has log files of bounded size, which [`follow`]
//!   reads to the end of the workspace; [`shell`] the words of commands that a user is told to run.
//! - [`view`] has the files of a workspace that does not run, read by [`root_fs`]; [`summary`] the
//!   digest of a tree.
//! - [`quarantine`] captures what a quarantined workspace was; [`sparse`] copies its disks.
//! - [`warm`] has snapshots of idle booted VMs, from which others are restored.
//! - [`restart`] decides when a workspace that ended is started again.
//! - [`readiness`] and [`health`] ask the guest, with a time limit; [`verification`] compares what a
//!   workspace consists of with what was recorded.
//!
#![doc = include_str!("../../../docs/library.md")]

pub mod boot;
pub mod client;
pub mod command;
pub mod creation;
pub mod dir;
pub mod disk_image;
pub mod environment;
pub mod event;
pub mod follow;
pub mod health;
pub mod image_layout;
pub mod layer;
pub mod lock;
pub mod log;
pub mod machine;
pub mod network;
pub mod passed;
pub mod plan;
pub mod prepare;
pub mod provision;
pub mod quarantine;
pub mod readiness;
pub mod restart;
pub mod result;
pub mod root_fs;
pub mod saved;
pub mod shell;
pub mod shim;
pub mod short_boot;
pub mod signal;
pub mod sparse;
pub mod spec;
pub mod start;
pub mod state;
pub mod summary;
pub mod verification;
pub mod view;
pub mod warm;
