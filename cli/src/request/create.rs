//! A validated `create`: a document, overridden by flags.

use std::path::{Path, PathBuf};

use microagent_workspace::spec::{
    Access, Disk, Entrypoint, Health, Network, NetworkMode, Resources as Sizes, Restart, Spec,
};

use super::command::CommandSpec;
use super::resources::{self, ResourceArgs};
use super::{
    RunRequest, Variables, disks, mediation, name, outputs, reference, unavailable_flag,
    workspace_name,
};
use crate::args::CreateArgs;
use crate::failure::Failure;

/// The image if none is given.
const DEFAULT_IMAGE: &str = "docker.io/library/python:3.13-slim";

/// One `create`.
#[derive(Debug)]
pub struct CreateRequest {
    /// The name.
    pub name: String,
    /// The complete specification, with absolute paths.
    pub spec: Spec,
    /// What to build and how to boot it.
    pub run: RunRequest,
}

impl CreateRequest {
    /// Validates `document`, whose relative paths are relative to `base`, overridden by `args` and by
    /// `variables`, for a host with `host_cpus` CPUs.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(
        args: CreateArgs,
        variables: Variables,
        document: Spec,
        base: &Path,
        host_cpus: u32,
    ) -> Result<CreateRequest, Failure> {
        if let Some(flag) = args.later.given() {
            return Err(unavailable_flag(flag));
        }
        if document.recorded.is_some() {
            return Err(Failure::usage("field recorded is that of a manifest")
                .remediation("remove it: create records what it resolves"));
        }
        if let Some(field) = unavailable_field(&document) {
            return Err(
                Failure::usage(format!("field {field} is not available yet"))
                    .remediation("omit it"),
            );
        }
        let name = the_name(&args, document.name.as_deref())?;
        let mut spec = absolute(document, base)?;
        spec.name = Some(name.clone());
        override_with(&mut spec, &args)?;
        spec.env.retain(|name, _| !variables.unset.contains(name));
        spec.env.extend(variables.set);
        if let Some(hostname) = &spec.hostname {
            name::check_hostname(hostname)?;
        }
        check_words(&spec)?;
        outputs::check(&spec.outputs)?;
        check_shell(spec.shell.as_deref())?;
        if let Some(health) = &spec.health {
            check_health(health)?;
        }
        let image = spec.image.get_or_insert_with(|| DEFAULT_IMAGE.to_owned());
        let reference = reference(image)?;
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let (memory, cpus, size) = (
            args.machine.memory.or(number(spec.resources.memory_mib)),
            (args.machine.cpus).or(number(spec.resources.cpu_count.map(u64::from))),
            args.size_mib.or(number(spec.resources.size_mib)),
        );
        let resources = resources::resolve(
            &ResourceArgs {
                profile: spec.profile.as_deref(),
                memory: memory.as_deref(),
                cpus: cpus.as_deref(),
                size_mib: size.as_deref(),
            },
            host_cpus,
        )?;
        spec.resources = Sizes {
            memory_mib: memory.map(|_| resources.memory_mib),
            cpu_count: cpus.map(|_| resources.cpu_count),
            size_mib: size.and(resources.size_mib),
        };
        spec.mediation = mediation::check(
            args.mediation.mediation.as_deref(),
            args.mediation.mediation_optional,
            spec.mediation,
        )?;
        let disks = disks::check(&words(&spec.disks), &words(&spec.bundles))?;
        let run = RunRequest {
            reference,
            setup: spec.setup.clone(),
            command: command(&spec),
            stdin: false,
            env: spec.env.clone().into_iter().collect(),
            unset_env: variables.unset,
            name: Some(name.clone()),
            hostname: spec.hostname.clone(),
            resources,
            disks,
            outputs: Vec::new(),
            output_dir: None,
            timeout: None,
            kernel: spec.kernel.clone(),
            keep: false,
            mke2fs: args.mke2fs,
            supervisor: args.supervisor,
            mediation: spec.mediation.clone(),
        };
        Ok(CreateRequest { name, spec, run })
    }
}

/// The name; given twice in different ways it must agree.
fn the_name(args: &CreateArgs, document: Option<&str>) -> Result<String, Failure> {
    let flags = workspace_name(args.name.clone(), args.id.clone())?;
    let positional = workspace_name(args.positional.clone(), None)?;
    if let (Some(flag), Some(positional)) = (&flags, &positional)
        && flag != positional
    {
        return Err(Failure::usage(format!(
            "the name {positional} conflicts with --name {flag}"
        ))
        .remediation("give one name"));
    }
    let document = workspace_name(document.map(str::to_owned), None)?;
    flags.or(positional).or(document).ok_or_else(|| {
        Failure::usage("the workspace has no name")
            .remediation("use microagent create NAME --image REF")
    })
}

/// The first field of a document that arrives with a later version.
fn unavailable_field(spec: &Spec) -> Option<&'static str> {
    let network = spec.network.as_ref();
    [
        ("rootfs", spec.rootfs.is_some()),
        ("files", !spec.files.is_empty()),
        (
            "network.forwards",
            network.is_some_and(|network| !network.forwards.is_empty()),
        ),
        (
            "network.mode",
            network.is_some_and(|network| network.mode != NetworkMode::Isolated),
        ),
    ]
    .into_iter()
    .find_map(|(field, given)| given.then_some(field))
}

/// Refuses a health check that checks nothing, or never ends.
fn check_health(health: &Health) -> Result<(), Failure> {
    if health.check().is_none() {
        return Err(
            Failure::usage("health needs either exec, or httpGet with a path and port")
                .remediation("as in: health: {httpGet: /healthz, port: 8080}"),
        );
    }
    for (field, value) in [
        ("intervalSeconds", health.interval_seconds),
        ("timeoutSeconds", health.timeout_seconds),
        ("retries", health.retries),
    ] {
        if value == 0 {
            let message = format!("health.{field} is below the minimum of 1");
            return Err(Failure::usage(message).remediation("use 1 or more, or omit it"));
        }
    }
    let path = health.http_get.as_deref().unwrap_or_default();
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err(Failure::usage(format!(
            "health.httpGet {path:?} is not a path of a URL"
        )));
    }
    Ok(())
}

/// Refuses what no program can be given: names of variables that are empty or contain `=`, and NUL
/// bytes.
fn check_words(spec: &Spec) -> Result<(), Failure> {
    let invalid = |what: &str| Err(Failure::usage(format!("{what} contains a NUL byte")));
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{name:?} is not the name of a variable");
            return Err(Failure::usage(message));
        }
        if value.contains('\0') {
            return invalid(&format!("the value of variable {name}"));
        }
    }
    let entrypoint = spec.entrypoint.iter().flat_map(Entrypoint::argv);
    for word in spec.setup.iter().cloned().chain(entrypoint) {
        if word.contains('\0') {
            return invalid("a command");
        }
    }
    Ok(())
}

/// The shell is a path in the guest; whether there is a program is known when it runs.
fn check_shell(shell: Option<&str>) -> Result<(), Failure> {
    match shell {
        Some(path) if !path.starts_with('/') || path.contains('\0') => Err(Failure::usage(
            format!("the shell {path:?} is not an absolute path"),
        )
        .remediation("use the path that it has in the guest, as in --shell /bin/bash")),
        _ => Ok(()),
    }
}

/// Makes the paths of a document absolute.
fn absolute(mut spec: Spec, base: &Path) -> Result<Spec, Failure> {
    let resolve = |path: &mut PathBuf| -> Result<(), Failure> {
        *path = std::path::absolute(base.join(&*path))
            .map_err(|error| Failure::usage(format!("invalid path {}: {error}", path.display())))?;
        Ok(())
    };
    spec.kernel.iter_mut().try_for_each(resolve)?;
    for disk in spec.disks.iter_mut().chain(&mut spec.bundles) {
        resolve(&mut disk.path)?;
    }
    Ok(spec)
}

/// Replaces fields by the flags that are given.
fn override_with(spec: &mut Spec, args: &CreateArgs) -> Result<(), Failure> {
    let replace = |field: &mut Option<String>, flag: &Option<String>| {
        if flag.is_some() {
            field.clone_from(flag);
        }
    };
    replace(&mut spec.image, &args.image);
    replace(&mut spec.role, &args.role);
    replace(&mut spec.hostname, &args.hostname);
    replace(&mut spec.shell, &args.shell);
    replace(&mut spec.profile, &args.machine.profile);
    if let Some(policy) = &args.restart {
        spec.restart = Some(restart(policy)?);
    }
    if let Some(kernel) = &args.machine.kernel {
        spec.kernel = Some(std::path::absolute(kernel).unwrap_or_else(|_| kernel.clone()));
    }
    if !args.setup.is_empty() {
        spec.setup.clone_from(&args.setup);
    }
    if let Some(line) = &args.entrypoint {
        spec.entrypoint = Some(Entrypoint::Shell(line.clone()));
        spec.image_command = false;
    }
    if args.image_command {
        spec.entrypoint = None;
        spec.image_command = true;
    }
    if spec.entrypoint.is_some() && spec.image_command {
        return Err(
            Failure::usage("entrypoint conflicts with imageCommand").remediation("use one of them")
        );
    }
    match args.network.as_deref() {
        None => {}
        Some("isolated") => {
            spec.network = Some(Network {
                mode: NetworkMode::Isolated,
                ..Network::default()
            });
        }
        Some(mode @ ("user" | "nat" | "bridged")) => {
            return Err(unavailable_flag(&format!("--network {mode}")));
        }
        Some(mode) => {
            return Err(Failure::usage(format!("unknown network mode {mode:?}"))
                .remediation("the modes are user, nat, isolated and bridged"));
        }
    }
    for output in outputs::parse(&args.output)? {
        spec.outputs.retain(|known| known.name != output.name);
        spec.outputs.push(output);
    }
    let images = disks::check(&args.disk, &args.bundle)?;
    for disk in images {
        let (list, path) = match disk.source {
            super::DiskSource::Image(path) => (&mut spec.disks, path),
            super::DiskSource::Bundle(path) => (&mut spec.bundles, path),
        };
        list.retain(|known| known.name != disk.name);
        list.push(Disk {
            name: disk.name,
            path,
            mountpoint: disk.mount,
            mode: match disk.read_only {
                true => Access::Ro,
                false => Access::Rw,
            },
        });
    }
    Ok(())
}

fn restart(policy: &str) -> Result<Restart, Failure> {
    match policy {
        "never" => Ok(Restart::Never),
        "on-failure" => Ok(Restart::OnFailure),
        "always" => Ok(Restart::Always),
        _ => Err(Failure::usage(format!("unknown restart policy {policy:?}"))
            .remediation("the policies are never, on-failure and always")),
    }
}

/// The disks as values of `--disk` and `--bundle`, which are checked as one.
fn words(disks: &[Disk]) -> Vec<String> {
    let word = |disk: &Disk| {
        let mode = match disk.mode {
            Access::Ro => "ro",
            Access::Rw => "rw",
        };
        format!(
            "{}={}:{}:{mode}",
            disk.name,
            disk.path.display(),
            disk.mountpoint
        )
    };
    disks.iter().map(word).collect()
}

fn command(spec: &Spec) -> Option<CommandSpec> {
    match &spec.entrypoint {
        Some(Entrypoint::Shell(line)) => Some(CommandSpec {
            exec: Some(line.clone()),
            ..CommandSpec::default()
        }),
        Some(Entrypoint::Argv(words)) => Some(CommandSpec {
            entrypoint: words.first().cloned(),
            words: words.iter().skip(1).cloned().collect(),
            ..CommandSpec::default()
        }),
        None => spec.image_command.then(CommandSpec::default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, Parsed, parse};

    fn check(line: &[&str], document: &str) -> Result<CreateRequest, Failure> {
        let words = ["microagent", "create"].iter().chain(line);
        let words: Vec<_> = words.map(std::ffi::OsString::from).collect();
        let Parsed::Command(cli) = parse(&words)? else {
            panic!("help");
        };
        let Command::Create(args) = cli.command else {
            panic!("another command");
        };
        let document = Spec::from_yaml(document).unwrap();
        let mut variables = Variables::default();
        for word in &args.environment.env {
            variables.add_flag(word, |_| Ok(None))?;
        }
        CreateRequest::check(*args, variables, document, Path::new("/base"), 4)
    }

    #[test]
    fn flags_override_single_fields_of_the_document() {
        let document = "\
name: research
image: docker.io/library/ubuntu:24.04
profile: medium
entrypoint: [sleep, \"1\"]
env: {A: a, B: b}
disks:
  - {name: data, path: data.ext4, mountpoint: /data, mode: rw}
";
        let request = check(
            &["--memory", "1024", "-e", "B=c", "--entrypoint", "ls"],
            document,
        )
        .unwrap();
        assert_eq!(request.name, "research");
        let run = &request.run;
        assert_eq!(
            (run.resources.memory_mib, run.resources.cpu_count),
            (1024, 2)
        );
        assert_eq!(run.resources.profile.as_deref(), Some("medium"));
        assert_eq!(request.spec.resources.memory_mib, Some(1024));
        assert_eq!(request.spec.resources.cpu_count, None);
        assert_eq!(run.command.as_ref().unwrap().exec.as_deref(), Some("ls"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(run.env, [pair("A", "a"), pair("B", "c")]);
        assert_eq!(request.spec.disks[0].path, Path::new("/base/data.ext4"));
        assert!(!run.disks[0].read_only);
    }

    #[test]
    fn a_name_is_needed_and_must_agree() {
        let name = |line: &[&str], document: &str| check(line, document).map(|found| found.name);
        assert_eq!(name(&["a"], "").unwrap(), "a");
        assert_eq!(name(&["a", "--name", "a", "--id", "a"], "").unwrap(), "a");
        assert_eq!(name(&["a"], "name: b").unwrap(), "a");
        for (line, document, message) in [
            (&[][..], "", "the workspace has no name"),
            (
                &["a", "--name", "b"],
                "",
                "the name a conflicts with --name b",
            ),
            (
                &["--name", "a", "--id", "b"],
                "",
                "--name a conflicts with --id b",
            ),
            (&["A"], "", "invalid workspace name \"A\""),
            (&[], "name: a_b", "invalid workspace name \"a_b\""),
        ] {
            let failure = name(line, document).unwrap_err();
            assert_eq!(failure.message, message);
            assert_eq!(failure.exit_code(1), 2);
        }
    }

    #[test]
    fn what_arrives_later_is_refused() {
        for (line, document, message) in [
            (
                &["a", "--publish", "80:80"][..],
                "",
                "--publish is not available yet",
            ),
            (
                &["a"],
                "rootfs: x.ext4",
                "field rootfs is not available yet",
            ),
            (
                &["a", "--network", "nat"],
                "",
                "--network nat is not available yet",
            ),
            (
                &["a", "--network", "host"],
                "",
                "unknown network mode \"host\"",
            ),
            (
                &["a"],
                "network: {mode: nat}",
                "field network.mode is not available yet",
            ),
        ] {
            assert_eq!(check(line, document).unwrap_err().message, message);
        }
        check(&["a"], "network: {mode: isolated}").unwrap();
        check(&["a", "--network", "isolated"], "network: {mode: nat}").unwrap_err();
        check(&["a", "--network", "isolated"], "").unwrap();
    }
}
