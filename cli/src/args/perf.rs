//! `microagent perf …`

use clap::{Args, Subcommand};

use super::run::MachineArgs;

/// `microagent perf …`
#[derive(Debug, Subcommand)]
pub enum PerfCommand {
    /// Boot repeatedly and show where the time goes
    Boot(PerfBootArgs),
}

/// `microagent perf boot`. Numbers are strings here, so that their errors can carry a remediation.
#[derive(Debug, Args)]
pub struct PerfBootArgs {
    /// The image
    #[arg(
        long,
        value_name = "REF",
        default_value = "docker.io/library/busybox:1.36"
    )]
    pub image: String,
    /// Shell command to run
    #[arg(long, value_name = "COMMAND", default_value = "echo ok")]
    pub exec: String,
    /// Number of measured boots, after one warm-up boot
    #[arg(long, short = 'n', value_name = "COUNT", default_value = "10")]
    pub iterations: String,
    /// VM resources and kernel.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Measure runs restored from a snapshot, which is taken first
    #[arg(long)]
    pub warm: bool,
    /// Skip the comparison with other installed monitors
    #[arg(long)]
    pub alone: bool,
}
