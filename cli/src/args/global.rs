//! The global flags.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use microagent_proto::control::Engine;

/// Flags of every command, before or after it. After the image of `run`, they belong to the command
/// in the guest.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Print one JSON document on stdout; events and errors as JSON on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no notices and no progress
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log to stderr; -vv adds debug messages and the guest's console
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print without colors
    #[arg(long, global = true)]
    pub no_color: bool,
    /// How to run virtual CPUs
    #[arg(
        long,
        value_name = "ENGINE",
        env = "MICROAGENT_ENGINE",
        global = true,
        default_value = "auto"
    )]
    pub engine: EngineArg,
    /// Directory for images, kernels and workspaces [default: ~/.microagent]
    #[arg(long, value_name = "DIR", env = "MICROAGENT_STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// An engine selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// KVM if it can run a guest kernel, otherwise QEMU
    Auto,
    /// The built-in monitor on /dev/kvm
    Kvm,
    /// QEMU without KVM
    Qemu,
}

impl EngineArg {
    /// The engine; `None` for the choice of one.
    pub fn engine(self) -> Option<Engine> {
        match self {
            EngineArg::Auto => None,
            EngineArg::Kvm => Some(Engine::Kvm),
            EngineArg::Qemu => Some(Engine::Qemu),
        }
    }
}
