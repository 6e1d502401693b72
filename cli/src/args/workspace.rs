//! The commands for workspaces.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::run::{EnvironmentArgs, MachineArgs, MediationArgs, NetworkArgs, PassedArgs};

/// `microagent create`.
#[derive(Debug, Default, Args)]
#[command(override_usage = "microagent create [NAME] --image REF [OPTIONS]")]
pub struct CreateArgs {
    /// The name, unless given with --name
    #[arg(value_name = "NAME")]
    pub positional: Option<String>,
    /// The image [default: docker.io/library/python:3.13-slim]
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// Make it from this ext4 file system, which is copied, instead of an image; needs --id
    #[arg(long, value_name = "PATH")]
    pub rootfs: Option<PathBuf>,
    /// Make it as this snapshot has saved another one; start it with --from-snapshot as well
    #[arg(long, value_name = "NAME[:TAG]", conflicts_with_all = [
        "image", "rootfs", "file", "request", "role", "setup", "entrypoint", "image_command", "restart",
        "timeout", "ttl", "on_idle", "shell", "hostname", "env", "env_file", "disk", "bundle", "output", "profile",
        "memory", "cpus", "kernel", "size_mib", "mke2fs", "supervisor", "network", "network_interface",
        "egress", "publish", "mediation", "proxy", "ca_cert", "dry_run",
    ])]
    pub from_snapshot: Option<String>,
    /// Read the specification from this file [default: microagent.yaml or microagent.yml, if present]
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Read the request from a JSON file, or from standard input with -; --json after create is the
    /// same
    #[arg(long, value_name = "PATH|-", conflicts_with = "file")]
    pub request: Option<PathBuf>,
    /// The name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Same as --name
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// A label for the caller's own use [default: workload]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Shell command to run before the first start; repeatable
    #[arg(long, value_name = "COMMAND")]
    pub setup: Vec<String>,
    /// Shell command to run on start [default: none, the VM idles]
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Run the image's own entrypoint and command on start
    #[arg(long, conflicts_with = "entrypoint")]
    pub image_command: bool,
    /// When `supervise` starts the workspace again: never, on-failure or always [default: never]
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Time limit of each start in seconds; then the workspace is stopped, and has failed
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Stop the workspace when it was without a session and a published connection for so long
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<String>,
    /// What happens then: stop, or suspend: save it with its memory, to go on when it is used
    /// [default: stop]
    #[arg(long, value_name = "ACTION")]
    pub on_idle: Option<String>,
    /// The shell of connect, a path in the guest [default: /bin/sh]
    #[arg(long, value_name = "PATH")]
    pub shell: Option<String>,
    /// Guest host name [default: the name]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Environment variables.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Attach an ext4 disk; rw writes to the file itself. Repeatable
    #[arg(long, value_name = "NAME=PATH:/MOUNT:ro|rw")]
    pub disk: Vec<String>,
    /// Attach a disk built from a tar archive. Repeatable
    #[arg(long, value_name = "NAME=TAR:/MOUNT:ro|rw")]
    pub bundle: Vec<String>,
    /// Declare a file or directory of the guest that artifacts copies; repeatable
    #[arg(long, value_name = "NAME=/PATH")]
    pub output: Vec<String>,
    /// VM resources and kernel.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Size of the root disk in MiB [default: content plus 512]
    #[arg(long, value_name = "MiB")]
    pub size_mib: Option<String>,
    /// Use this mke2fs instead of the built-in writer
    #[arg(long, value_name = "PATH")]
    pub mke2fs: Option<PathBuf>,
    /// Use this supervisor instead of the installed one, also on start
    #[arg(long, value_name = "PATH")]
    pub supervisor: Option<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub network: NetworkArgs,
    /// A server of the host that the guest reaches over vsock.
    #[command(flatten)]
    pub mediation: MediationArgs,
    /// What is passed on from the host.
    #[command(flatten)]
    pub passed: PassedArgs,
    /// Validate everything, print the complete specification, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A command about one workspace.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The workspace
    pub name: String,
}

/// `microagent status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The workspace
    pub name: String,
    /// Ask the registry whether the image's tag has moved
    #[arg(long)]
    pub refresh: bool,
}

/// `microagent start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The workspace
    pub name: String,
    /// Memory and CPUs of this profile for this start: tiny, small, medium or large
    #[arg(long, value_name = "PROFILE")]
    pub profile: Option<String>,
    /// Memory in MiB for this start
    #[arg(long, short = 'm', value_name = "MiB")]
    pub memory: Option<String>,
    /// Number of CPUs for this start
    #[arg(long, value_name = "COUNT")]
    pub cpus: Option<String>,
    /// Boot this kernel for this start
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Boot the VM instead of restoring it from a snapshot, and take no snapshot
    #[arg(long)]
    pub no_snapshot: bool,
    /// Go on from this snapshot: with its memory, and with its disks instead of those of the workspace
    #[arg(long, value_name = "NAME[:TAG]", conflicts_with_all = ["no_snapshot", "profile", "memory", "cpus", "kernel"])]
    pub from_snapshot: Option<String>,
    /// Wait until the workspace has ended, at most this many seconds, and exit with the workload's code
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub wait: Option<String>,
}

/// `microagent wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The workspace
    pub name: String,
    /// Wait at most this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
}

/// `microagent events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// The workspace
    pub name: String,
    /// Go on with what happens, until the workspace has ended
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// `microagent supervise`.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The workspaces
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Start a workspace again at most this many times in a row [default: without limit]
    #[arg(long, value_name = "COUNT")]
    pub max_restarts: Option<String>,
    /// Write a systemd user unit for each workspace instead
    #[arg(long)]
    pub install: bool,
    /// Remove the systemd user unit of each workspace instead
    #[arg(long, conflicts_with = "install")]
    pub uninstall: bool,
}

/// `microagent apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The workspace [default: the name in the file]
    pub name: Option<String>,
    /// The specification
    #[arg(long, value_name = "PATH")]
    pub file: PathBuf,
}

/// `microagent completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: CompletionShell,
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// Friendly interactive shell
    Fish,
}

/// `microagent man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory, which is created if it is missing
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// `microagent stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The workspaces [default: all that run]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// `microagent halt`, `stop`, `kill` and `quarantine`.
#[derive(Debug, Args)]
pub struct EndArgs {
    /// The workspace
    pub name: String,
    /// Why, for the event
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `microagent delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The workspaces
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Kill a running workspace first
    #[arg(long, short = 'f')]
    pub force: bool,
}

/// `microagent exec`.
#[derive(Debug, Args)]
#[command(override_usage = "microagent exec [OPTIONS] NAME [--] COMMAND [ARG...]")]
pub struct ExecArgs {
    /// Pass standard input to the command
    #[arg(long, short = 'i')]
    pub interactive: bool,
    /// Run the command in a terminal; implies -i
    #[arg(long, short = 't')]
    pub tty: bool,
    /// Leave the command running, and discard its output
    #[arg(long, short = 'd', conflicts_with_all = ["interactive", "tty", "timeout"])]
    pub detach: bool,
    /// Time limit in seconds, until the command has ended; then it is killed
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,
    /// Environment variables.
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Working directory [default: the image's]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// User, as in USER[:GROUP] [default: the image's]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The workspace
    pub name: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub words: Vec<String>,
}

/// `microagent connect`.
#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The workspace
    pub name: String,
    /// Show the guest's console instead: its last lines, then what it prints
    #[arg(long)]
    pub console: bool,
    /// Let the shell execute this line, without a terminal, and print what that prints
    #[arg(long, value_name = "LINE", conflicts_with = "console")]
    pub send: Option<String>,
    /// Time limit in seconds for --send; then the shell is killed
    #[arg(long, value_name = "SECONDS", requires = "send")]
    pub timeout: Option<String>,
}

/// `microagent logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The workspace
    pub name: String,
    /// The guest's console instead of the workload's output
    #[arg(long)]
    pub console: bool,
    /// Go on with what is written, until the workspace has ended
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// `microagent cp`.
#[derive(Debug, Args)]
#[command(
    override_usage = "microagent cp [OPTIONS] NAME:/PATH DESTINATION\n       \
                            microagent cp [OPTIONS] SOURCE NAME:/PATH"
)]
pub struct CpArgs {
    /// Copy what SOURCE points to if it is a symbolic link
    #[arg(long, short = 'L')]
    pub follow_link: bool,
    /// A path of the host, or NAME:/PATH in a workspace
    pub source: String,
    /// The same
    pub destination: String,
}

/// `microagent artifacts`.
#[derive(Debug, Subcommand)]
pub enum ArtifactsCommand {
    /// List the declared outputs of a workspace
    #[command(visible_alias = "ls")]
    List(NameArgs),
    /// Copy a declared output of a workspace
    Get(ArtifactArgs),
}

/// `microagent artifacts get`.
#[derive(Debug, Args)]
pub struct ArtifactArgs {
    /// The workspace
    pub name: String,
    /// The output
    pub output: String,
    /// Where to; a directory gets a file or directory with the output's name [default: .]
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
}

/// `microagent clone`.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The workspace
    pub name: String,
    /// The name of the new one
    pub new: String,
}

/// `microagent commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// The workspace
    pub name: String,
    /// The image: oci:DIR:TAG, or with --push one of a registry
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Push the image to its registry
    #[arg(long)]
    pub push: bool,
}

/// `microagent network`.
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Forward a TCP port of the host to a workspace
    Publish(PublishArgs),
    /// Free a port of the host
    Unpublish(PublishArgs),
    /// List the published ports of a workspace
    #[command(visible_alias = "list")]
    Ls(NameArgs),
}

/// `microagent network publish` and `unpublish`.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The workspace
    pub name: String,
    /// The ports
    #[arg(value_name = "[HOST:]PORT:GUESTPORT")]
    pub mapping: String,
}

/// `microagent spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Print the JSON Schema of specifications
    #[arg(long, required = true)]
    pub schema: bool,
}
