//! What a `run` was asked for, checked. Nothing here looks at the world.

pub mod command;
mod disks;
mod name;
pub mod resources;

use std::path::PathBuf;

use microagent_pipeline::{ErrorKind, Reference};

use crate::args::RunArgs;
use crate::failure::{EXIT_USAGE, Failure};
use command::CommandSpec;
pub use disks::{DiskRequest, DiskSource};
use resources::{ResourceArgs, Resources};

/// One `run`.
#[derive(Debug)]
pub struct RunRequest {
    /// The image.
    pub reference: Reference,
    /// Shell commands to run first.
    pub setup: Vec<String>,
    /// What to run.
    pub command: CommandSpec,
    /// Pass standard input.
    pub stdin: bool,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// The workspace's name.
    pub name: Option<String>,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// How large.
    pub resources: Resources,
    /// Disks besides the root.
    pub disks: Vec<DiskRequest>,
    /// Seconds from the boot of the VM to the end of the command.
    pub timeout: Option<u64>,
    /// Kernel to boot.
    pub kernel: Option<PathBuf>,
    /// Keep the workspace.
    pub keep: bool,
    /// Writer of file systems.
    pub mke2fs: Option<PathBuf>,
    /// Supervisor to start.
    pub supervisor: Option<PathBuf>,
}

impl RunRequest {
    /// Checks what was typed, on a host with `host_cpus` CPUs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(args: RunArgs, host_cpus: u32) -> Result<RunRequest, Failure> {
        if let Some(flag) = args.unavailable_flag() {
            return Err(unavailable_flag(flag));
        }
        let resources = resources::resolve(
            &ResourceArgs {
                profile: args.machine.profile.as_deref(),
                memory: args.machine.memory.as_deref(),
                cpus: args.machine.cpus.as_deref(),
                size_mib: args.size_mib.as_deref(),
            },
            host_cpus,
        )?;
        let timeout = args
            .timeout
            .as_deref()
            .map(resources::timeout)
            .transpose()?;
        let env = args
            .env
            .iter()
            .map(|word| env_variable(word))
            .collect::<Result<_, _>>()?;
        let name = workspace_name(args.name, args.id)?;
        if let Some(hostname) = &args.hostname {
            name::check_hostname(hostname)?;
        }
        let disks = disks::check(&args.disk, &args.bundle)?;
        let (reference, command) =
            image_and_command(args.image, args.words, args.exec, args.entrypoint)?;
        Ok(RunRequest {
            reference,
            setup: args.setup,
            command,
            stdin: args.interactive,
            env,
            name,
            hostname: args.hostname,
            resources,
            disks,
            timeout,
            kernel: args.machine.kernel,
            keep: args.keep,
            mke2fs: args.mke2fs,
            supervisor: args.supervisor,
        })
    }
}

/// Parses an image reference.
///
/// # Errors
/// When it is none.
pub fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse()
        .map_err(|error| microagent_pipeline::Error::Reference(error).into())
}

fn unavailable_flag(flag: &str) -> Failure {
    Failure::new(
        ErrorKind::Unsupported,
        format!("{flag} is not available yet"),
    )
    .remediation("leave it out")
    .exits(EXIT_USAGE)
}

fn image_and_command(
    image: Option<String>,
    mut words: Vec<String>,
    exec: Option<String>,
    entrypoint: Option<String>,
) -> Result<(Reference, CommandSpec), Failure> {
    let image = match image {
        Some(image) => image,
        None if words.is_empty() => {
            return Err(Failure::usage("run needs an image").remediation(
                "write microagent run --image REF --exec 'COMMAND', or microagent run REF COMMAND",
            ));
        }
        None => words.remove(0),
    };
    if let Some(flag) = words.first().filter(|word| {
        [
            "--exec",
            "--setup",
            "--image",
            "--env",
            "--timeout",
            "--keep",
            "--disk",
            "--bundle",
        ]
        .contains(&word.as_str())
    }) {
        return Err(Failure::usage(format!(
            "{flag} stands after the image, where it is the command's"
        ))
        .remediation(format!(
            "write it before the image: microagent run {flag} … {image}"
        )));
    }
    if let (Some(_), Some(word)) = (&exec, words.first()) {
        return Err(Failure::usage(format!(
            "--exec and {word:?} after the image both say what to run"
        ))
        .remediation("use one of them"));
    }
    if exec.is_some() && entrypoint.is_some() {
        return Err(
            Failure::usage("--exec and --entrypoint both say what to run")
                .remediation("use one of them"),
        );
    }
    Ok((
        reference(&image)?,
        CommandSpec {
            exec,
            entrypoint,
            words,
        },
    ))
}

fn env_variable(word: &str) -> Result<(String, String), Failure> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) => Err(
            Failure::usage(format!("--env {word:?} has no name before the ="))
                .remediation("write --env KEY=VALUE"),
        ),
        None => Err(
            Failure::usage(format!("--env {word:?} has no value")).remediation(format!(
                "write --env {word}=VALUE; nothing is taken from your own environment"
            )),
        ),
    }
}

fn workspace_name(name: Option<String>, id: Option<String>) -> Result<Option<String>, Failure> {
    if let (Some(name), Some(id)) = (&name, &id)
        && name != id
    {
        return Err(
            Failure::usage(format!("--name {name} and --id {id} are two names"))
                .remediation("they mean the same: give one of them"),
        );
    }
    let Some(name) = name.or(id) else {
        return Ok(None);
    };
    name::check(&name, "a workspace")?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Parsed, parse};

    fn check(line: &[&str]) -> Result<RunRequest, Failure> {
        let words: Vec<_> = ["microagent", "run"]
            .iter()
            .chain(line)
            .map(std::ffi::OsString::from)
            .collect();
        match parse(&words)? {
            Parsed::Command(cli) => match cli.command {
                Command::Run(args) => RunRequest::check(*args, 2),
                other => panic!("{other:?}"),
            },
            Parsed::Help(help) => panic!("{help}"),
        }
    }

    #[test]
    fn all_flags_are_understood() {
        let request = check(&[
            "--image",
            "localhost:5000/app:1",
            "--exec",
            "echo hi",
            "--setup",
            "a",
            "--setup",
            "b",
            "--env",
            "A=1",
            "-e",
            "B=x=y",
            "--hostname",
            "Box.example",
            "--name",
            "box",
            "--id",
            "box",
            "--kernel",
            "/k",
            "--profile",
            "tiny",
            "--memory",
            "300",
            "--cpus",
            "3",
            "--size-mib",
            "700",
            "--timeout",
            "9",
            "--keep",
            "--mke2fs",
            "/m",
            "--supervisor",
            "/s",
            "-i",
        ])
        .unwrap();
        assert_eq!(request.reference.to_string(), "localhost:5000/app:1");
        assert_eq!(request.setup, ["a", "b"]);
        assert_eq!(request.command.exec.as_deref(), Some("echo hi"));
        assert_eq!(
            request.env,
            [("A".into(), "1".into()), ("B".into(), "x=y".into())]
        );
        assert_eq!(request.hostname.as_deref(), Some("Box.example"));
        assert_eq!(request.name.as_deref(), Some("box"));
        assert_eq!(request.kernel, Some("/k".into()));
        assert_eq!(request.mke2fs, Some("/m".into()));
        assert_eq!(request.supervisor, Some("/s".into()));
        assert_eq!(request.timeout, Some(9));
        assert!(request.keep && request.stdin);
        assert_eq!(
            request.resources,
            Resources {
                memory_mib: 300,
                cpu_count: 3,
                size_mib: Some(700),
                profile: Some("tiny".into())
            }
        );
    }

    #[test]
    fn words_after_the_image_are_the_commands_own() {
        for line in [
            &["busybox", "ls", "-l", "--color", "--", "x"][..],
            &["--image", "busybox", "--", "ls", "-l", "--color", "--", "x"],
            &["--image", "busybox", "ls", "-l", "--color", "--", "x"],
        ] {
            let request = check(line).unwrap();
            assert_eq!(
                request.command.words,
                ["ls", "-l", "--color", "--", "x"],
                "{line:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_the_way_out() {
        let name_rule =
            "use 1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen";
        let host_rule = "use at most 64 letters, digits and hyphens, in parts separated by dots";
        for (line, message, remediation) in [
            (
                &["--exec", "x"][..],
                "run needs an image",
                "write microagent run --image REF --exec 'COMMAND', or microagent run REF COMMAND",
            ),
            (
                &["busybox", "--exec", "x"],
                "--exec stands after the image, where it is the command's",
                "write it before the image: microagent run --exec … busybox",
            ),
            (
                &["--exec", "x", "busybox", "ls"],
                "--exec and \"ls\" after the image both say what to run",
                "use one of them",
            ),
            (
                &["--exec", "x", "--entrypoint", "y", "busybox"],
                "--exec and --entrypoint both say what to run",
                "use one of them",
            ),
            (
                &["--env", "NOVALUE", "busybox"],
                "--env \"NOVALUE\" has no value",
                "write --env NOVALUE=VALUE; nothing is taken from your own environment",
            ),
            (
                &["--env", "=x", "busybox"],
                "--env \"=x\" has no name before the =",
                "write --env KEY=VALUE",
            ),
            (
                &["--name", "a", "--id", "b", "busybox"],
                "--name a and --id b are two names",
                "they mean the same: give one of them",
            ),
            (
                &["--name", "A", "busybox"],
                "\"A\" is no name for a workspace",
                name_rule,
            ),
            (
                &["--name=-a", "busybox"],
                "\"-a\" is no name for a workspace",
                name_rule,
            ),
            (
                &["--id", "", "busybox"],
                "\"\" is no name for a workspace",
                name_rule,
            ),
            (
                &["--hostname", "a..b", "busybox"],
                "--hostname \"a..b\" is no host name",
                host_rule,
            ),
            (
                &["--hostname", "a b", "busybox"],
                "--hostname \"a b\" is no host name",
                host_rule,
            ),
            (
                &["--privileged", "busybox"],
                "there is no flag --privileged here",
                "the command has a whole machine to itself and needs no extra rights: leave it out",
            ),
            (
                &["-v", "/a:/b", "busybox"],
                "there is no flag -v here",
                "a microVM shares no directories with the host: put the files into the image, or \
                 pass them on standard input with -i",
            ),
            (
                &["--json", "busybox"],
                "there is no flag --json here",
                "this flag stands before the command, as in: microagent --json run …",
            ),
            (
                &["--exce", "x", "busybox"],
                "there is no flag --exce here",
                "did you mean --exec?",
            ),
            (
                &["busybox", "--exec"],
                "--exec stands after the image, where it is the command's",
                "write it before the image: microagent run --exec … busybox",
            ),
            (
                &["--exec"],
                "a value is required for '--exec <COMMAND>' but none was supplied",
                "see: microagent run --help",
            ),
        ] {
            let failure = check(line).unwrap_err();
            assert_eq!(
                failure,
                Failure::usage(message).remediation(remediation),
                "{line:?}"
            );
        }
    }

    #[test]
    fn flags_of_later_versions_are_refused() {
        for line in [
            &["--shell", "/bin/bash"][..],
            &["--output", "a=/b"],
            &["--mediation", "1=a:2"],
            &["--mediation-optional"],
        ] {
            let mut whole = line.to_vec();
            whole.push("busybox");
            let failure = check(&whole).unwrap_err();
            assert_eq!(failure.message, format!("{} is not available yet", line[0]));
            assert_eq!(failure.kind, ErrorKind::Unsupported);
            assert_eq!(failure.exit_code(125), 2);
        }
    }

    #[test]
    fn words_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStringExt;
        let words = vec![
            "microagent".into(),
            "run".into(),
            "busybox".into(),
            std::ffi::OsString::from_vec(vec![0xff]),
        ];
        let failure = parse(&words).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Usage);
        assert!(failure.message.contains("UTF-8"), "{}", failure.message);
    }

    #[test]
    fn a_name_has_at_most_63_characters() {
        let long = "a".repeat(63);
        assert!(check(&["--name", &long, "busybox"]).is_ok());
        assert!(check(&["--name", &format!("{long}a"), "busybox"]).is_err());
    }
}
