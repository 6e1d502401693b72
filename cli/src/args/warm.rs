//! `microagent warm`.

use clap::Args;

use super::run::MachineArgs;

/// `microagent warm`.
#[derive(Debug, Default, Args)]
pub struct WarmArgs {
    /// VM resources and kernel.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Network mode of the runs: user, nat, isolated or bridged [default: user, or
    /// $MICROAGENT_NETWORK]
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
}
