//! Workspaces: VMs that are described once and then kept, started, entered and deleted.
//!
//! - [`spec`] is what a workspace is to be: one schema for `microagent.yaml`, for request JSON and
//!   for the manifest in the workspace's directory.
//! - [`dir`] is that directory, [`lock`] says whether its supervisor lives, [`event`] what happened
//!   to it, and [`state`] is computed from both.
//! - [`machine`] is its running VM.
//!
//! The crate prints nothing and knows no command line.

pub mod dir;
pub mod event;
pub mod lock;
pub mod machine;
pub mod spec;
pub mod state;
