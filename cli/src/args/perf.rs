//! `microagent perf …`

use clap::{Args, Subcommand};

use super::run::MachineArgs;

/// `microagent perf …`
#[derive(Debug, Subcommand)]
pub enum PerfCommand {
    /// Boot again and again and show where the time goes
    Boot(PerfBootArgs),
}

/// `microagent perf boot`. Numbers are texts here, so that their errors can say the way out.
#[derive(Debug, Args)]
pub struct PerfBootArgs {
    /// The image
    #[arg(
        long,
        value_name = "REF",
        default_value = "docker.io/library/busybox:1.36"
    )]
    pub image: String,
    /// Shell command to run in it
    #[arg(long, value_name = "COMMAND", default_value = "echo ok")]
    pub exec: String,
    /// How often to boot, after one boot that is not counted
    #[arg(long, short = 'n', value_name = "COUNT", default_value = "10")]
    pub iterations: String,
    /// What the VM is like
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Do not boot the same kernel with the other monitors that are installed
    #[arg(long)]
    pub alone: bool,
}
