//! The command-line grammar. Parsing has no side effects; values are validated by
//! [`crate::request`].

mod alone;
mod cache;
mod global;
mod image;
mod kernel;
mod perf;
mod rootfs;
mod run;
mod snapshot;
mod usage_error;
mod warm;
mod workspace;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;
pub use cache::{CacheCommand, ExportArgs, GcArgs, ImportArgs, VerifyArgs};
pub use global::{EngineArg, GlobalArgs};
pub use image::{DriftArgs, ImageCommand, ReferenceArgs};
pub use kernel::{KernelBuildArgs, KernelCommand, KernelInstallArgs};
pub use perf::{PerfBootArgs, PerfCommand};
pub use rootfs::{RootfsBuildArgs, RootfsCommand};
pub use run::{EnvironmentArgs, NetworkArgs, RunArgs};
pub use snapshot::{SnapshotArgs, SnapshotCommand, SnapshotDeleteArgs, SnapshotListArgs};
pub use warm::WarmArgs;
pub use workspace::{
    ApplyArgs, ArtifactArgs, ArtifactsCommand, CloneArgs, CommitArgs, CompletionShell,
    CompletionsArgs, ConnectArgs, CpArgs, CreateArgs, DeleteArgs, EndArgs, EventsArgs, ExecArgs,
    LogsArgs, ManArgs, NameArgs, NetworkCommand, PublishArgs, SpecArgs, StartArgs, StatsArgs,
    StatusArgs, SuperviseArgs, WaitArgs,
};

/// Run OCI images as Linux microVMs
#[derive(Debug, Parser)]
#[command(name = "microagent", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// Global flags.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command in a fresh microVM made from an image
    Run(Box<RunArgs>),
    /// Create a workspace: a microVM that is kept
    Create(Box<CreateArgs>),
    /// Start a workspace
    Start(StartArgs),
    /// Run a command in a running workspace
    Exec(ExecArgs),
    /// Copy files between the host and a workspace
    Cp(CpArgs),
    /// List and copy the declared outputs of a workspace
    Artifacts {
        /// The subcommand.
        #[command(subcommand)]
        command: ArtifactsCommand,
    },
    /// Make a workspace with the files of another one, and with the memory of one that runs
    Clone(CloneArgs),
    /// Save running workspaces with their memory
    Snapshot {
        /// The subcommand.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// List what a workspace has changed in its image
    Diff(NameArgs),
    /// Make an image of a workspace
    Commit(CommitArgs),
    /// Open a shell in a running workspace
    Connect(ConnectArgs),
    /// Shut a workspace down; kill its VM if it does not obey
    Stop(EndArgs),
    /// Shut a workspace down; never kill its VM
    Halt(EndArgs),
    /// Kill the VM of a workspace at once
    Kill(EndArgs),
    /// Stop the CPUs of a running workspace
    Pause(NameArgs),
    /// Let the CPUs of a paused workspace run again, or a suspended one go on
    Resume(NameArgs),
    /// Stop the CPUs of a workspace and sever it from everything; only kill leads out
    Quarantine(EndArgs),
    /// Print what running workspaces use of the host
    Stats(StatsArgs),
    /// Delete workspaces
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Print the state of a workspace
    #[command(visible_alias = "inspect")]
    Status(StatusArgs),
    /// List running workspaces
    Ps,
    /// List all workspaces
    #[command(visible_alias = "ls")]
    List,
    /// Print what a workspace's workload wrote
    Logs(LogsArgs),
    /// Print what happened to a workspace
    Events(EventsArgs),
    /// Print how a workspace's workload ended
    Result(NameArgs),
    /// Wait until a workspace has ended
    Wait(WaitArgs),
    /// Change the network of a running workspace
    Network {
        /// The subcommand.
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Start workspaces again that end, and check their health
    Supervise(SuperviseArgs),
    /// Change a workspace to what a specification says
    Apply(ApplyArgs),
    /// List the resource profiles
    Profiles,
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages to a directory
    Man(ManArgs),
    /// Describe specification files
    Spec(SpecArgs),
    /// Build root file systems
    Rootfs {
        /// The subcommand.
        #[command(subcommand)]
        command: RootfsCommand,
    },
    /// Manage guest kernels
    Kernel {
        /// The subcommand.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// Resolve image references and detect changes
    Image {
        /// The subcommand.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Inspect, verify and clean the cache
    Cache {
        /// The subcommand.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Take the snapshot that runs with these flags are restored from, for any image
    Warm(WarmArgs),
    /// Measure boot performance
    Perf {
        /// The subcommand.
        #[command(subcommand)]
        command: PerfCommand,
    },
    /// Check what this host can run and what is missing
    Doctor,
    /// Print the version
    Version,
}

/// A parsed command line.
#[derive(Debug)]
pub enum Parsed {
    /// A command to execute.
    Command(Box<Cli>),
    /// Help text to print.
    Help(String),
}

/// Parses the command line.
///
/// # Errors
/// A usage failure: one line and a remediation.
pub fn parse(words: &[OsString]) -> Result<Parsed, Failure> {
    let words = &request_words(words)[..];
    let alone = command_index(words).and_then(|index| alone::parse(words, words[index].to_str()?));
    match alone.map_or_else(|| parse_whole(words), Ok) {
        // clap compares flags at one place of the command line only.
        Ok(cli) if cli.global.quiet && cli.global.verbose > 0 => {
            Err(Failure::usage("--quiet conflicts with --verbose").remediation("use one of them"))
        }
        Ok(cli) => match usage_error::volume(words, &cli.command) {
            Some(failure) => Err(failure),
            None => Ok(Parsed::Command(Box::new(cli))),
        },
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(usage_error::usage_error(&error, words, &grammar())),
        },
    }
}

/// Parses the command line with the whole grammar.
fn parse_whole(words: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = without_empty_variables(Cli::command()).try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// A variable that is empty counts as unset, as in the XDG base directory specification.
fn without_empty_variables(grammar: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|it| it.is_empty());
    grammar.mut_args(|argument| match argument.get_env().is_some_and(is_empty) {
        true => argument.env(None::<&str>),
        false => argument,
    })
}

/// Global flags that take a value.
const VALUED: [&str; 2] = ["--state-dir", "--engine"];

/// The words, some of them spelled for the grammar, which cannot say what they mean:
///
/// - `--json` after `create` is `--request`: there it names a file, and the global flag must come
///   before (docs/cli.md);
/// - `--wait 5` after `start` is `--wait=5`, and `--wait NAME` stays: the value is optional.
fn request_words(words: &[OsString]) -> Vec<OsString> {
    let mut changed = words.to_vec();
    let Some(command) = command_index(words) else {
        return changed;
    };
    if words[command] == "create" {
        for word in &mut changed[command + 1..] {
            if word == "--json" {
                *word = "--request".into();
            } else if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--json=")) {
                *word = format!("--request={path}").into();
            }
        }
    }
    if words[command] == "start"
        && let Some(index) = words.iter().position(|word| word == "--wait")
        && let Some(seconds) = words.get(index + 1).and_then(|word| word.to_str())
        && seconds.parse::<u64>().is_ok()
    {
        changed[index] = format!("--wait={seconds}").into();
        changed.remove(index + 1);
    }
    changed
}

/// Where the command is.
fn command_index(words: &[OsString]) -> Option<usize> {
    let is_value = |index: usize| VALUED.iter().any(|flag| words[index - 1] == *flag);
    let is_flag = |word: &OsString| word.to_string_lossy().starts_with('-');
    (1..words.len()).find(|&index| !is_flag(&words[index]) && !is_value(index))
}

/// Whether `--json` is given, for errors of a command line that cannot be parsed.
pub fn wants_json(words: &[OsString]) -> bool {
    let flags = words.iter().skip(1).take_while(|word| *word != "--");
    flags.into_iter().any(|word| word == "--json")
}

/// All commands and their flags, for what is made of them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The same, complete.
fn grammar() -> clap::Command {
    let mut grammar = command();
    grammar.build();
    grammar
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const MANUAL: &str = include_str!("../../../docs/cli.md");

    /// The long flags of the commands below `command`, by the path of each.
    fn flags(command: &clap::Command, path: &str, found: &mut Vec<(String, BTreeSet<String>)>) {
        if !command.has_subcommands() {
            let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let own = visible.filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
            let long = own.filter_map(|arg| arg.get_long());
            found.push((
                path.to_owned(),
                long.map(|flag| format!("--{flag}")).collect(),
            ));
        }
        for subcommand in command.get_subcommands() {
            if subcommand.get_name() != "help" {
                let path = format!("{path} {}", subcommand.get_name());
                flags(subcommand, path.trim(), found);
            }
        }
    }

    /// The section of the manual about a command, or about the first word of its path.
    fn section(path: &str) -> &'static str {
        let first = path.split(' ').next().unwrap();
        let mut sections = MANUAL.split("\n## ");
        sections
            .clone()
            .find(|text| text.starts_with(&format!("{path}\n")))
            .or_else(|| sections.find(|text| text.starts_with(&format!("{first}\n"))))
            .unwrap_or_else(|| panic!("no section about {path}"))
    }

    #[test]
    fn the_manual_has_every_command_and_flag() {
        let mut found = Vec::new();
        flags(&grammar(), "", &mut found);
        assert!(found.len() > 10, "{found:?}");
        for (path, flags) in found {
            let section = section(&path);
            for flag in &flags {
                assert!(section.contains(flag), "{path} {flag} is not in the manual");
            }
            let own_section = section.starts_with(&format!("{path}\n"));
            let rows = section
                .lines()
                .filter(|line| own_section && line.starts_with("| `-"));
            for cell in rows.filter_map(|row| row.split(" | ").next()) {
                for flag in cell.split(['`', ' ']).filter(|word| word.starts_with("--")) {
                    assert!(flags.contains(flag), "{path} has no {flag}");
                }
            }
        }
    }

    fn parsed(line: &str) -> Result<Box<Cli>, Failure> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match parse(&words)? {
            Parsed::Command(cli) => Ok(cli),
            Parsed::Help(help) => panic!("{help}"),
        }
    }

    #[test]
    fn global_flags_precede_or_follow_the_command() {
        let flags = "--json --state-dir /s --no-color --engine qemu -vv";
        for line in [
            format!("microagent {flags} cache ls"),
            format!("microagent cache {flags} ls"),
            format!("microagent cache ls {flags}"),
            format!("microagent run {flags} image command"),
            "microagent --engine kvm run --engine qemu --json --no-color -vv --state-dir /s i"
                .to_owned(),
        ] {
            let global = parsed(&line).unwrap().global;
            assert!(global.json && global.no_color, "{line}");
            assert_eq!(global.engine, EngineArg::Qemu, "{line}");
            assert_eq!(global.verbose, 2, "{line}");
            assert_eq!(global.state_dir.as_deref(), Some("/s".as_ref()), "{line}");
        }
        assert!(parsed("microagent cache ls -q").unwrap().global.quiet);
        assert!(parsed("microagent -q cache ls -v").is_err());
    }

    #[test]
    fn json_after_create_names_a_request_and_before_it_is_the_global_flag() {
        for (line, json, request) in [
            ("--json create a", true, None),
            ("create a --json file", false, Some("file")),
            ("create --json=- a", false, Some("-")),
            (
                "--json --state-dir create create --json file",
                true,
                Some("file"),
            ),
        ] {
            let cli = parsed(&format!("microagent {line}")).unwrap();
            assert_eq!(cli.global.json, json, "{line}");
            let Command::Create(args) = cli.command else {
                panic!("another command");
            };
            assert_eq!(args.request.as_deref(), request.map(Path::new), "{line}");
        }
        let cli = parsed("microagent --state-dir create cache ls --json").unwrap();
        assert!(cli.global.json);
    }

    #[test]
    fn the_value_of_start_wait_is_optional() {
        for (line, seconds) in [
            ("start a", None),
            ("start a --wait", Some("")),
            ("start --wait a", Some("")),
            ("start --wait 5 a", Some("5")),
            ("start --wait=5 a", Some("5")),
            ("--engine qemu start a --wait 5", Some("5")),
        ] {
            let Command::Start(args) = parsed(&format!("microagent {line}")).unwrap().command
            else {
                panic!("another command");
            };
            assert_eq!(
                (&*args.name, args.wait.as_deref()),
                ("a", seconds),
                "{line}"
            );
        }
        assert!(parsed("microagent run image start --wait 5").is_ok());
    }

    #[test]
    fn a_flag_after_the_image_belongs_to_the_command() {
        let cli = parsed("microagent run image ls --json -v --engine x").unwrap();
        assert!(!cli.global.json && cli.global.verbose == 0);
        let Command::Run(run) = cli.command else {
            panic!("another command");
        };
        assert_eq!(run.words, ["image", "ls", "--json", "-v", "--engine", "x"]);
    }

    #[test]
    fn a_misspelt_command_or_flag_is_answered_with_the_nearest_one() {
        for (line, message, remediation) in [
            ("cahce ls", "unknown command cahce", "did you mean cache?"),
            ("cache lss", "unknown command lss", "did you mean ls?"),
            (
                "frobnicate",
                "unknown command frobnicate",
                "see: microagent --help",
            ),
            (
                "cache frobnicate",
                "unknown command frobnicate",
                "see: microagent cache --help",
            ),
            (
                "cache gc --dryrun",
                "unknown flag --dryrun",
                "did you mean --dry-run?",
            ),
            (
                "cache ls --stat-dir x",
                "unknown flag --stat-dir",
                "did you mean --state-dir?",
            ),
            (
                "--jsn version",
                "unknown flag --jsn",
                "did you mean --json?",
            ),
            (
                "run --exce x i",
                "unknown flag --exce",
                "did you mean --exec?",
            ),
            (
                "cache ls --frob",
                "unknown flag --frob",
                "see: microagent cache ls --help",
            ),
        ] {
            let failure = parsed(&format!("microagent {line}")).unwrap_err();
            assert_eq!(failure.message, message, "{line}");
            assert_eq!(failure.remediation.as_deref(), Some(remediation), "{line}");
        }
    }
}
