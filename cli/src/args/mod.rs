//! What was typed. Nothing here has an effect or decides anything beyond the grammar.

mod cache;
mod perf;
mod refused;
mod run;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;
pub use cache::{
    CacheCommand, DriftArgs, ExportArgs, GcArgs, ImageCommand, ImportArgs, ReferenceArgs,
    VerifyArgs,
};
pub use perf::{PerfBootArgs, PerfCommand};
pub use run::{MachineArgs, RunArgs};

/// Turns an OCI image into a running Linux microVM.
#[derive(Debug, Parser)]
#[command(name = "microagent", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// Flags for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

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

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command in a fresh microVM made from an image
    Run(Box<RunArgs>),
    /// Build root file systems
    Rootfs {
        /// Which.
        #[command(subcommand)]
        command: RootfsCommand,
    },
    /// Manage guest kernels
    Kernel {
        /// Which.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// Ask what references name, and what has changed
    Image {
        /// Which.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look after what is cached
    Cache {
        /// Which.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Measure
    Perf {
        /// What.
        #[command(subcommand)]
        command: PerfCommand,
    },
    /// Say what this host can run, and what is missing
    Doctor,
    /// Print the version
    Version,
}

/// `microagent rootfs …`
#[derive(Debug, Subcommand)]
pub enum RootfsCommand {
    /// Build an image's root file system into a file
    Build(RootfsBuildArgs),
}

/// `microagent rootfs build`
#[derive(Debug, Args)]
pub struct RootfsBuildArgs {
    /// The image, pinned by digest
    #[arg(long, value_name = "REF")]
    pub image: String,
    /// The file to write; replaced when it exists [default: only into the cache]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Accept a reference that can mean another image tomorrow
    #[arg(long)]
    pub allow_mutable: bool,
    /// Size of the file system in MiB
    #[arg(long, value_name = "MiB")]
    pub size_mib: Option<String>,
    /// Use this mke2fs instead of the built-in writer
    #[arg(long, value_name = "PATH")]
    pub mke2fs: Option<PathBuf>,
}

/// `microagent kernel …`
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Get a kernel and make it the default
    Install(KernelInstallArgs),
    /// Build a kernel made for microVMs from source and make it the default
    Build(KernelBuildArgs),
}

/// `microagent kernel build`
#[derive(Debug, Args)]
pub struct KernelBuildArgs {
    /// The kernel's source: linux-*.tar.xz or a Debian package of it [default: the distribution's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// Options to set after our own, so that they count
    #[arg(long, value_name = "FRAGMENT")]
    pub config: Option<PathBuf>,
    /// How many processes compile at once [default: one a processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

/// `microagent kernel install`
#[derive(Debug, Args)]
pub struct KernelInstallArgs {
    /// A kernel file: vmlinux, bzImage, or a Debian kernel package
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Where to download it
    #[arg(long, value_name = "URL", requires = "sha256")]
    pub url: Option<String>,
    /// The SHA-256 of what is downloaded
    #[arg(long, value_name = "SUM", requires = "url")]
    pub sha256: Option<String>,
}

/// What parsing led to.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Command(Box<Cli>),
    /// Help was asked for: print this.
    Help(String),
}

/// Parses the command line.
///
/// # Errors
/// A usage failure, in one line and a way out.
pub fn parse(words: &[OsString]) -> Result<Parsed, Failure> {
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(refused::explain(&error, words)),
        },
    }
}

/// Whether `--json` was given, for errors of a command line that cannot be parsed.
pub fn wants_json(words: &[OsString]) -> bool {
    words
        .iter()
        .skip(1)
        .take_while(|word| {
            let mut commands = Cli::command();
            commands.build();
            word.to_str()
                .is_none_or(|word| commands.find_subcommand(word).is_none())
        })
        .any(|word| word == "--json")
}
