//! The global flags.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags for every command. They stand before it.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Print one JSON document on stdout, and errors as JSON on stderr
    #[arg(long)]
    pub json: bool,
    /// Print no notices and no progress
    #[arg(long, short = 'q', conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr; twice for the guest's console as well
    #[arg(long, short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print without colours
    #[arg(long)]
    pub no_color: bool,
    /// How virtual CPUs are run
    #[arg(
        long,
        value_name = "ENGINE",
        env = "MICROAGENT_ENGINE",
        default_value = "auto"
    )]
    pub engine: EngineArg,
    /// Where images, kernels and workspaces are kept [default: ~/.microagent]
    #[arg(long, value_name = "DIR", env = "MICROAGENT_STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// A choice of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// KVM where it can run a guest kernel, else QEMU
    Auto,
    /// The built-in monitor on /dev/kvm
    Kvm,
    /// QEMU without KVM
    Qemu,
}
