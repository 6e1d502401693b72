//! `microagent run`.

use std::path::PathBuf;

use clap::Args;

/// `microagent run`. Numbers are texts here, so that their errors can say the way out.
#[derive(Debug, Default, Args)]
#[command(
    override_usage = "microagent run [OPTIONS] --image REF --exec COMMAND\n       \
                            microagent run [OPTIONS] REF [COMMAND [ARG...]]"
)]
pub struct RunArgs {
    /// The image
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// Shell command to run
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
    /// Shell command to run before; repeatable
    #[arg(long, value_name = "COMMAND")]
    pub setup: Vec<String>,
    /// Program to run in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Pass standard input to the command
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Guest environment variable; repeatable
    #[arg(long, short = 'e', value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Guest host name [default: the workspace's name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Workspace name [default: generated]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The same as --name
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// What the VM is like
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Size of the root disk in MiB [default: the content and 512 MiB]
    #[arg(long, value_name = "MiB")]
    pub size_mib: Option<String>,
    /// Stop after this many seconds, counted from the boot of the VM
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Attach an ext4 disk; with rw the command writes to it. Repeatable
    #[arg(long, value_name = "NAME=PATH:/MOUNT:ro|rw")]
    pub disk: Vec<String>,
    /// Attach a disk made from a tar; with rw what is written is gone afterwards. Repeatable
    #[arg(long, value_name = "NAME=TAR:/MOUNT:ro|rw")]
    pub bundle: Vec<String>,
    /// Keep the workspace and its disk after the command has ended
    #[arg(long)]
    pub keep: bool,
    /// Use this mke2fs instead of the built-in writer
    #[arg(long, value_name = "PATH")]
    pub mke2fs: Option<PathBuf>,
    /// Use this supervisor instead of the installed one
    #[arg(long, value_name = "PATH")]
    pub supervisor: Option<PathBuf>,
    /// Not available yet
    #[arg(long, value_name = "PATH", hide = true)]
    pub shell: Option<String>,
    /// Not available yet
    #[arg(long, value_name = "NAME=/PATH", hide = true)]
    pub output: Vec<String>,
    /// Not available yet
    #[arg(long, value_name = "PORT=HOST:PORT", hide = true)]
    pub mediation: Option<String>,
    /// Not available yet
    #[arg(long, hide = true)]
    pub mediation_optional: bool,
    /// The image, unless --image names it; then a command and its arguments
    #[arg(value_name = "REF COMMAND ARG", trailing_var_arg = true)]
    pub words: Vec<String>,
}

/// What a VM is like that boots an image. Numbers are texts here too.
#[derive(Debug, Default, Clone, Args)]
pub struct MachineArgs {
    /// Resource profile: tiny, small, medium or large
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Memory in MiB [default: 512]
    #[arg(long, short = 'm', value_name = "MiB")]
    pub memory: Option<String>,
    /// Number of CPUs [default: the host's, at most 2]
    #[arg(long, value_name = "COUNT")]
    pub cpus: Option<String>,
    /// Kernel to boot instead of the default one
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
}

impl RunArgs {
    /// Flags of this command that are parsed but have nothing behind them yet.
    pub fn unavailable_flag(&self) -> Option<&'static str> {
        [
            ("--shell", self.shell.is_some()),
            ("--output", !self.output.is_empty()),
            ("--mediation", self.mediation.is_some()),
            ("--mediation-optional", self.mediation_optional),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }
}
