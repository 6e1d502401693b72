//! A validated `run`. Validation has no side effects and accesses no files.

pub mod create;
mod disks;
pub mod exec_size;
mod mediation;
pub mod network;
mod outputs;
pub mod resources;
pub mod spec_file;
pub mod variables;

use std::path::PathBuf;

use microagent_pipeline::{Reference, RootfsOptions};
use microagent_workspace::command::CommandSpec;
use microagent_workspace::passed::Passed;
use microagent_workspace::plan::disks::DiskRequest;
use microagent_workspace::plan::name;
use microagent_workspace::plan::{self, PlanError};
use microagent_workspace::prepare::ImagePlan;
use microagent_workspace::spec::{Mediation, Network, NetworkMode, OutputPath};

use crate::args::RunArgs;
use crate::failure::Failure;
use resources::{ResourceArgs, Resources};
pub use variables::Variables;

/// One `run`.
#[derive(Debug)]
pub struct RunRequest {
    /// The image.
    pub reference: Reference,
    /// Shell commands to run before the command, in order.
    pub setup: Vec<String>,
    /// The command; `None` for a VM that idles.
    pub command: Option<CommandSpec>,
    /// Forward standard input.
    pub stdin: bool,
    /// Environment variables, in order.
    pub env: Vec<(String, String)>,
    /// Variables of the image that the command does not get.
    pub unset_env: Vec<String>,
    /// The workspace name.
    pub name: Option<String>,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// VM size.
    pub resources: Resources,
    /// Additional disks.
    pub disks: Vec<DiskRequest>,
    /// What is copied out of the guest when the command has ended.
    pub outputs: Vec<OutputPath>,
    /// The directory for it, unless it is the default one.
    pub output_dir: Option<PathBuf>,
    /// Time limit in seconds, from VM boot to the end of the command.
    pub timeout: Option<u64>,
    /// The kernel to boot instead of the default one.
    pub kernel: Option<PathBuf>,
    /// Keep the workspace.
    pub keep: bool,
    /// The shell of `connect` in a kept one.
    pub shell: Option<String>,
    /// Boot, and take no snapshot.
    pub no_snapshot: bool,
    /// The mke2fs to use instead of the built-in writer.
    pub mke2fs: Option<PathBuf>,
    /// The supervisor to start instead of the installed one.
    pub supervisor: Option<PathBuf>,
    /// The server of the host that the guest reaches over vsock.
    pub mediation: Option<Mediation>,
    /// How the VM is connected, if something was said about it.
    pub network: Option<Network>,
    /// The proxy of its programs: a URL or `host`.
    pub proxy: Option<String>,
    /// Files with certificates of authorities that it trusts.
    pub ca_certs: Vec<PathBuf>,
    /// What these two stand for, once it is read.
    pub passed: Passed,
}

impl RunRequest {
    /// The image and what is done with it.
    pub fn image_plan(&self) -> ImagePlan {
        ImagePlan {
            reference: self.reference.clone(),
            command: self.command.clone(),
            options: RootfsOptions {
                size_mib: self.resources.size_mib,
                mke2fs: self.mke2fs.clone(),
            },
        }
    }

    /// Validates `args`, whose environment variables are `variables`, for a host with `host_cpus`
    /// CPUs and the default network mode `default_network`.
    ///
    /// # Errors
    /// The first invalid argument.
    pub fn check(
        args: RunArgs,
        variables: Variables,
        host_cpus: u32,
        default_network: Option<NetworkMode>,
    ) -> Result<RunRequest, Failure> {
        if args.shell.is_some() && !args.keep {
            return Err(Failure::usage("--shell is for a workspace that is kept")
                .remediation("add --keep, or omit it"));
        }
        plan::check_shell(args.shell.as_deref())?;
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
        let name = workspace_name(args.name, args.id)?;
        if let Some(hostname) = &args.hostname {
            name::check_hostname(hostname)?;
        }
        let (images, bundles) = disks::parse_all(&args.disk, &args.bundle)?;
        let disks = plan::disks::check(&images, &bundles)?;
        let outputs = outputs::parse(&args.output)?;
        if args.output_dir.is_some() && outputs.is_empty() {
            return Err(Failure::usage("--output-dir needs an --output")
                .remediation("use --output NAME=/guest/path"));
        }
        let mediation = mediation::check(
            args.mediation.mediation.as_deref(),
            args.mediation.mediation_optional,
        )?;
        let network = network::check(&args.network, default_network)?;
        if args.passed.proxy.is_some() {
            plan::proxy::check_mode(network.as_ref().map(|network| network.mode))?;
        }
        let (reference, command) =
            image_and_command(args.image, args.words, args.exec, args.entrypoint)?;
        Ok(RunRequest {
            reference,
            setup: args.setup,
            command: Some(command),
            stdin: args.interactive,
            env: variables.set,
            unset_env: variables.unset,
            name,
            hostname: args.hostname,
            resources,
            disks,
            outputs,
            output_dir: args.output_dir,
            timeout,
            kernel: args.machine.kernel,
            keep: args.keep,
            no_snapshot: args.no_snapshot,
            shell: args.shell,
            mke2fs: args.mke2fs,
            supervisor: args.supervisor,
            mediation,
            network,
            proxy: args.passed.proxy,
            ca_certs: args.passed.ca_cert,
            passed: Passed::default(),
        })
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        match error {
            PlanError::Invalid(invalid) => {
                Failure::usage(invalid.message).maybe_remediation(invalid.remediation)
            }
            PlanError::Reference(error) => microagent_pipeline::Error::Reference(error).into(),
            error => Failure::usage(error.to_string()),
        }
    }
}

/// Parses an image reference.
///
/// # Errors
/// When it is invalid.
pub fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse()
        .map_err(|error| microagent_pipeline::Error::Reference(error).into())
}

/// Checks the name of a workspace.
///
/// # Errors
/// When it is not one.
pub fn checked_name(name: &str) -> Result<String, Failure> {
    let checked = workspace_name(Some(name.to_owned()), None)?;
    Ok(checked.unwrap_or_default())
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
            return Err(Failure::usage("no image given").remediation(
                "use microagent run --image REF --exec 'COMMAND', or microagent run REF COMMAND",
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
            "{flag} after the image is an argument of the command"
        ))
        .remediation(format!(
            "place it before the image: microagent run {flag} … {image}"
        )));
    }
    if let (Some(_), Some(word)) = (&exec, words.first()) {
        return Err(Failure::usage(format!(
            "--exec conflicts with the command {word:?} after the image"
        ))
        .remediation("use one of them"));
    }
    if exec.is_some() && entrypoint.is_some() {
        return Err(
            Failure::usage("--exec conflicts with --entrypoint").remediation("use one of them")
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

pub(crate) fn workspace_name(
    name: Option<String>,
    id: Option<String>,
) -> Result<Option<String>, Failure> {
    if let (Some(name), Some(id)) = (&name, &id)
        && name != id
    {
        return Err(
            Failure::usage(format!("--name {name} conflicts with --id {id}"))
                .remediation("they are synonyms: use one of them"),
        );
    }
    let Some(name) = name.or(id) else {
        return Ok(None);
    };
    name::check(&name, "workspace")?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use microagent_pipeline::ErrorKind;

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
                Command::Run(args) => {
                    let mut variables = Variables::default();
                    for word in &args.environment.env {
                        variables.add_flag(word, |_| Ok(None))?;
                    }
                    RunRequest::check(*args, variables, 2, None)
                }
                other => panic!("{other:?}"),
            },
            Parsed::Help(help) => panic!("{help}"),
        }
    }

    #[test]
    fn all_flags_are_parsed() {
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
        assert_eq!(request.command.unwrap().exec.as_deref(), Some("echo hi"));
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
    fn words_after_the_image_belong_to_the_command() {
        for line in [
            &["busybox", "ls", "-l", "--color", "--", "x"][..],
            &["--image", "busybox", "--", "ls", "-l", "--color", "--", "x"],
            &["--image", "busybox", "ls", "-l", "--color", "--", "x"],
        ] {
            let request = check(line).unwrap();
            assert_eq!(
                request.command.unwrap().words,
                ["ls", "-l", "--color", "--", "x"],
                "{line:?}"
            );
        }
    }

    #[test]
    fn invalid_arguments_are_named_with_a_remediation() {
        let name_rule =
            "use 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen";
        let host_rule = "use at most 64 letters, digits and hyphens, in labels separated by dots";
        for (line, message, remediation) in [
            (
                &["--exec", "x"][..],
                "no image given",
                "use microagent run --image REF --exec 'COMMAND', or microagent run REF COMMAND",
            ),
            (
                &["busybox", "--exec", "x"],
                "--exec after the image is an argument of the command",
                "place it before the image: microagent run --exec … busybox",
            ),
            (
                &["--exec", "x", "busybox", "ls"],
                "--exec conflicts with the command \"ls\" after the image",
                "use one of them",
            ),
            (
                &["--exec", "x", "--entrypoint", "y", "busybox"],
                "--exec conflicts with --entrypoint",
                "use one of them",
            ),
            (
                &["--env", "=x", "busybox"],
                "a value of --env has no variable name",
                "use --env KEY=VALUE",
            ),
            (
                &["--name", "a", "--id", "b", "busybox"],
                "--name a conflicts with --id b",
                "they are synonyms: use one of them",
            ),
            (
                &["--name", "A", "busybox"],
                "invalid workspace name \"A\"",
                name_rule,
            ),
            (
                &["--name=-a", "busybox"],
                "invalid workspace name \"-a\"",
                name_rule,
            ),
            (
                &["--id", "", "busybox"],
                "invalid workspace name \"\"",
                name_rule,
            ),
            (
                &["--hostname", "a..b", "busybox"],
                "invalid host name \"a..b\"",
                host_rule,
            ),
            (
                &["--hostname", "a b", "busybox"],
                "invalid host name \"a b\"",
                host_rule,
            ),
            (
                &["--privileged", "busybox"],
                "unknown flag --privileged",
                "omit it: the command runs in its own VM and needs no extra privileges",
            ),
            (
                &["--privilged", "busybox"],
                "unknown flag --privilged",
                "did you mean --privileged? omit it: the command runs in its own VM and needs no \
                 extra privileges",
            ),
            (
                &["-v", "/a:/b", "busybox"],
                "-v /a:/b: unknown volume",
                "a microVM shares no directories with the host: put the files into the image, attach \
                 them with --disk or --bundle, or pass them on standard input with -i",
            ),
            (
                &["--qiet", "busybox"],
                "unknown flag --qiet",
                "did you mean --quiet?",
            ),
            (
                &["--exce", "x", "busybox"],
                "unknown flag --exce",
                "did you mean --exec?",
            ),
            (
                &["busybox", "--exec"],
                "--exec after the image is an argument of the command",
                "place it before the image: microagent run --exec … busybox",
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
    fn a_shell_is_for_kept_runs() {
        let failure = check(&["--shell", "/bin/bash", "busybox"]).unwrap_err();
        assert_eq!(failure.message, "--shell is for a workspace that is kept");
        assert_eq!(failure.exit_code(125), 2);
        let kept = check(&["--keep", "--shell", "/bin/bash", "busybox"]).unwrap();
        assert_eq!(kept.shell.as_deref(), Some("/bin/bash"));
        let failure = check(&["--keep", "--shell", "bash", "busybox"]).unwrap_err();
        assert_eq!(
            failure.message,
            "the shell \"bash\" is not an absolute path"
        );
    }

    #[test]
    fn words_that_are_not_utf8_are_rejected() {
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
