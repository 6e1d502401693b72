//! `microagent snapshot`.

use clap::{Args, Subcommand};

/// The subcommands of `microagent snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Save a running workspace with its memory; it goes on
    Create(SnapshotArgs),
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls(SnapshotListArgs),
    /// Delete snapshots
    #[command(visible_alias = "rm")]
    Delete(SnapshotDeleteArgs),
}

/// `microagent snapshot create`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The workspace, and a name for the snapshot [default: latest]
    #[arg(value_name = "NAME[:TAG]")]
    pub snapshot: String,
}

/// `microagent snapshot ls`.
#[derive(Debug, Args)]
pub struct SnapshotListArgs {
    /// Only those of this workspace
    #[arg(value_name = "NAME")]
    pub workspace: Option<String>,
}

/// `microagent snapshot delete`.
#[derive(Debug, Args)]
pub struct SnapshotDeleteArgs {
    /// The snapshots
    #[arg(value_name = "NAME[:TAG]", required = true)]
    pub snapshots: Vec<String>,
}
