//! `microagent run`.

use std::path::PathBuf;

use clap::Args;

/// `microagent run`. Numbers are strings here, so that their errors can carry a remediation.
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
    /// Shell command to run first; repeatable
    #[arg(long, value_name = "COMMAND")]
    pub setup: Vec<String>,
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Pass standard input to the command
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Environment variables.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Guest host name [default: the workspace name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Workspace name [default: generated]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Same as --name
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// VM resources and kernel.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Size of the root disk in MiB [default: content plus 512]
    #[arg(long, value_name = "MiB")]
    pub size_mib: Option<String>,
    /// Time limit in seconds, from VM boot to the end of the command
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Attach an ext4 disk; rw writes to the file itself. Repeatable
    #[arg(long, value_name = "NAME=PATH:/MOUNT:ro|rw")]
    pub disk: Vec<String>,
    /// Attach a disk built from a tar archive; rw writes are discarded unless --keep. Repeatable
    #[arg(long, value_name = "NAME=TAR:/MOUNT:ro|rw")]
    pub bundle: Vec<String>,
    /// Copy this file or directory out of the guest when the command has ended; repeatable
    #[arg(long, value_name = "NAME=/PATH")]
    pub output: Vec<String>,
    /// Where to copy outputs to [default: ./NAME-outputs, with the workspace's name]
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Boot the VM instead of restoring it from a snapshot, and take no snapshot
    #[arg(long)]
    pub no_snapshot: bool,
    /// Keep the workspace and its disk after the command ends
    #[arg(long)]
    pub keep: bool,
    /// Use this mke2fs instead of the built-in writer
    #[arg(long, value_name = "PATH")]
    pub mke2fs: Option<PathBuf>,
    /// Use this supervisor instead of the installed one
    #[arg(long, value_name = "PATH")]
    pub supervisor: Option<PathBuf>,
    /// The shell of connect in a kept workspace [default: /bin/sh]
    #[arg(long, value_name = "PATH")]
    pub shell: Option<String>,
    /// A server of the host that the guest reaches over vsock.
    #[command(flatten)]
    pub mediation: MediationArgs,
    /// The network.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// What is passed on from the host.
    #[command(flatten)]
    pub passed: PassedArgs,
    /// The image, unless given with --image; then the command and its arguments
    #[arg(value_name = "REF COMMAND ARG", trailing_var_arg = true)]
    pub words: Vec<String>,
}

/// Environment variables.
#[derive(Debug, Default, Clone, Args)]
pub struct EnvironmentArgs {
    /// Environment variable; without a value, that of the caller. Repeatable
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file. Repeatable
    #[arg(long, value_name = "PATH")]
    pub env_file: Vec<PathBuf>,
}

/// VM resources and kernel. Numbers are strings here too.
#[derive(Debug, Default, Clone, Args)]
pub struct MachineArgs {
    /// Resource profile: tiny, small, medium or large
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Memory in MiB [default: 512]
    #[arg(long, short = 'm', value_name = "MiB")]
    pub memory: Option<String>,
    /// Number of CPUs [default: 2, or fewer if the host has fewer]
    #[arg(long, value_name = "COUNT")]
    pub cpus: Option<String>,
    /// Kernel to boot instead of the default kernel
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
}

/// A server of the host that the guest reaches over vsock.
#[derive(Debug, Default, Clone, Args)]
pub struct MediationArgs {
    /// Let the guest reach the TCP server HOST:PORT on this vsock port of the host (CID 2)
    #[arg(long, value_name = "PORT=HOST:PORT")]
    pub mediation: Option<String>,
    /// Start also while the server of --mediation cannot be reached
    #[arg(long)]
    pub mediation_optional: bool,
}

/// How the VM is connected.
#[derive(Debug, Default, Clone, Args)]
pub struct NetworkArgs {
    /// Network mode: user, nat, isolated or bridged [default: user, or $MICROAGENT_NETWORK]
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// The host's bridge, for mode bridged
    #[arg(long, value_name = "INTERFACE")]
    pub network_interface: Option<String>,
    /// What the guest may send, such as allow=pypi.org:443; in order, and nothing else. Repeatable
    #[arg(long, value_name = "RULE")]
    pub egress: Vec<String>,
    /// Forward a TCP port of the host to the guest; the host's address is 127.0.0.1 unless given.
    /// Repeatable
    #[arg(long, value_name = "[HOST:]PORT:GUESTPORT")]
    pub publish: Vec<String>,
}

/// What is passed on from the host to the guest.
#[derive(Debug, Default, Clone, Args)]
pub struct PassedArgs {
    /// Proxy of the guest's programs: its URL, or `host` for what the variables of this environment
    /// say, such as https_proxy
    #[arg(long, value_name = "URL|host")]
    pub proxy: Option<String>,
    /// Let the guest trust the certificate authorities in this PEM file. Repeatable
    #[arg(long, value_name = "PATH")]
    pub ca_cert: Vec<PathBuf>,
}
