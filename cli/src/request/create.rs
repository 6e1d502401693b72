//! A validated `create`: a document, overridden by flags.

use std::path::{Path, PathBuf};

use microagent_workspace::plan::{Options, Plan};
use microagent_workspace::spec::{Entrypoint, NetworkMode, OnIdle, Restart, Spec};

use super::resources::ResourceArgs;
use super::spec_file::SpecFile;
use super::{Variables, disks, mediation, network, outputs, resources, workspace_name};
use crate::args::CreateArgs;
use crate::failure::Failure;

/// One `create`.
#[derive(Debug)]
pub struct CreateRequest {
    /// What to create; paths are absolute.
    pub plan: Plan,
    /// Variables of the image that its commands do not get.
    pub unset_env: Vec<String>,
    /// The supervisor to start instead of the installed one.
    pub supervisor: Option<PathBuf>,
}

impl CreateRequest {
    /// Validates `document`, overridden by `args` and by `variables`, for a host with `host_cpus` CPUs
    /// and the default network mode `default_network`.
    ///
    /// # Errors
    /// The first invalid value, with its place in the document if it is that of the document.
    pub fn check(
        args: CreateArgs,
        variables: Variables,
        document: &SpecFile,
        host_cpus: u32,
        default_network: Option<NetworkMode>,
    ) -> Result<CreateRequest, Failure> {
        let mut spec = document.absolute()?;
        spec.name = the_name(&args)?.or(spec.name);
        override_with(&mut spec, &args, default_network)?;
        spec.env.retain(|name, _| !variables.unset.contains(name));
        spec.env.extend(variables.set);
        let options = Options {
            host_cpus,
            mke2fs: args.mke2fs,
        };
        Ok(CreateRequest {
            plan: Plan::new(spec.clone(), options)
                .map_err(|error| document.plan_failure(&spec, error))?,
            unset_env: variables.unset,
            supervisor: args.supervisor,
        })
    }
}

/// The name that the arguments give; given twice in different ways it must agree.
fn the_name(args: &CreateArgs) -> Result<Option<String>, Failure> {
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
    Ok(flags.or(positional))
}

/// Replaces fields by the flags that are given.
fn override_with(
    spec: &mut Spec,
    args: &CreateArgs,
    default_network: Option<NetworkMode>,
) -> Result<(), Failure> {
    let replace = |field: &mut Option<String>, flag: &Option<String>| {
        if flag.is_some() {
            field.clone_from(flag);
        }
    };
    override_root(
        spec,
        args.image.as_ref(),
        args.rootfs.as_deref(),
        args.id.is_some(),
    )?;
    replace(&mut spec.role, &args.role);
    replace(&mut spec.hostname, &args.hostname);
    replace(&mut spec.shell, &args.shell);
    replace(&mut spec.profile, &args.machine.profile);
    for (flag, given, field) in [
        ("--timeout", &args.timeout, &mut spec.timeout_seconds),
        ("--ttl", &args.ttl, &mut spec.ttl_seconds),
    ] {
        if let Some(given) = given {
            // The maximum fits.
            *field = Some(resources::seconds(flag, given)? as u32);
        }
    }
    if let Some(action) = &args.on_idle {
        spec.on_idle = Some(on_idle(action)?);
        if spec.ttl_seconds.is_none() {
            return Err(Failure::usage("--on-idle needs --ttl")
                .remediation("as in: --ttl 600 --on-idle suspend"));
        }
    }
    if let Some(policy) = &args.restart {
        spec.restart = Some(restart(policy)?);
    }
    if let Some(kernel) = &args.machine.kernel {
        spec.kernel = Some(std::path::absolute(kernel).unwrap_or_else(|_| kernel.clone()));
    }
    if !args.setup.is_empty() {
        spec.setup.clone_from(&args.setup);
    }
    if args.entrypoint.as_deref() == Some("") {
        // A manifest with it could not be read again.
        return Err(Failure::usage("--entrypoint is empty")
            .remediation("omit it: without a workload the VM idles"));
    }
    if let Some(line) = &args.entrypoint {
        spec.entrypoint = Some(Entrypoint::Shell(line.clone()));
        spec.image_command = false;
    }
    if args.image_command {
        spec.entrypoint = None;
        spec.image_command = true;
    }
    spec.network = network::merge(&args.network, spec.network.take(), default_network)?;
    replace(&mut spec.proxy, &args.passed.proxy);
    if !args.passed.ca_cert.is_empty() {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        spec.ca_certs = args.passed.ca_cert.iter().map(absolute).collect();
    }
    for output in outputs::parse(&args.output)? {
        spec.outputs.retain(|known| known.name != output.name);
        spec.outputs.push(output);
    }
    let (images, bundles) = disks::parse_all(&args.disk, &args.bundle)?;
    for (list, given) in [(&mut spec.disks, images), (&mut spec.bundles, bundles)] {
        for disk in given {
            list.retain(|known| known.name != disk.name);
            list.push(disk);
        }
    }
    let given = ResourceArgs {
        profile: None,
        memory: args.machine.memory.as_deref(),
        cpus: args.machine.cpus.as_deref(),
        size_mib: args.size_mib.as_deref(),
    };
    let given = given.sizes()?;
    let sizes = &mut spec.resources;
    sizes.memory_mib = given.memory_mib.or(sizes.memory_mib);
    sizes.cpu_count = given.cpu_count.or(sizes.cpu_count);
    sizes.size_mib = given.size_mib.or(sizes.size_mib);
    spec.mediation = mediation::merge(
        args.mediation.mediation.as_deref(),
        args.mediation.mediation_optional,
        spec.mediation.take(),
    )?;
    Ok(())
}

/// Replaces the image or the root file system of the document by the one that is given.
///
/// # Errors
/// Both are given, or `rootfs` without an `--id`.
fn override_root(
    spec: &mut Spec,
    image: Option<&String>,
    rootfs: Option<&Path>,
    has_id: bool,
) -> Result<(), Failure> {
    match (image, rootfs) {
        (None, None) => {}
        (Some(_), Some(_)) => {
            return Err(
                Failure::usage("--image conflicts with --rootfs").remediation("use one of them")
            );
        }
        (Some(image), None) => {
            spec.image = Some(image.clone());
            spec.rootfs = None;
        }
        (None, Some(_)) if !has_id => {
            return Err(Failure::usage("--rootfs needs --id")
                .remediation("use microagent create --id ID --rootfs PATH"));
        }
        (None, Some(path)) => {
            spec.image = None;
            spec.rootfs = Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        }
    }
    Ok(())
}

fn on_idle(action: &str) -> Result<OnIdle, Failure> {
    match action {
        "stop" => Ok(OnIdle::Stop),
        "suspend" => Ok(OnIdle::Suspend),
        _ => Err(Failure::usage(format!("unknown --on-idle {action:?}"))
            .remediation("it is stop or suspend")),
    }
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

#[cfg(test)]
mod tests {
    use microagent_workspace::prepare::RootPlan;

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
        let path = Path::new("a.yaml");
        let document = SpecFile::parse(path, "/base".into(), document.to_owned()).unwrap();
        let mut variables = Variables::default();
        for word in &args.environment.env {
            variables.add_flag(word, |_| Ok(None))?;
        }
        CreateRequest::check(*args, variables, &document, 4, None)
    }

    #[test]
    fn the_proxy_and_the_certificates_are_those_of_the_flags_or_of_the_document() {
        let document = "name: a\nproxy: host\ncaCerts: [ca.pem, /etc/ca.pem]";
        let spec = check(&[], document).unwrap().plan.spec;
        assert_eq!(spec.proxy.as_deref(), Some("host"));
        assert_eq!(
            spec.ca_certs,
            [Path::new("/base/ca.pem"), Path::new("/etc/ca.pem")]
        );
        let flags = ["--proxy", "http://proxy:1", "--ca-cert", "/other.pem"];
        let spec = check(&flags, document).unwrap().plan.spec;
        assert_eq!(spec.proxy.as_deref(), Some("http://proxy:1"));
        assert_eq!(spec.ca_certs, [Path::new("/other.pem")]);
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
        let request = request.plan;
        assert_eq!(request.name, "research");
        let resources = &request.resources;
        assert_eq!((resources.memory_mib, resources.cpu_count), (1024, 2));
        assert_eq!(resources.profile.as_deref(), Some("medium"));
        assert_eq!(request.spec.resources.memory_mib, Some(1024));
        assert_eq!(request.spec.resources.cpu_count, None);
        let RootPlan::Image(image) = request.root else {
            panic!("{:?}", request.root);
        };
        let command = image.command.unwrap();
        assert_eq!(command.exec.as_deref(), Some("ls"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let env = [pair("A", "a"), pair("B", "c")];
        assert_eq!(request.spec.env, env.into());
        assert_eq!(request.spec.disks[0].path, Path::new("/base/data.ext4"));
        assert!(!request.disks[0].read_only);
    }

    #[test]
    fn a_value_of_the_document_has_its_line_and_one_of_a_flag_has_not() {
        let document = "\
image: busybox
profile: huge
resources:
  memoryMiB: 1
disks:
  - {name: a, path: a, mountpoint: /a}
  - {name: b, path: b, mountpoint: data}
network:
  forwards:
    - hostPort: 80
      guestPort: 0
mediation: {port: 0, target: 'a:1'}
shell: sh
";
        let mut lines: Vec<&str> = document.lines().collect();
        // Each mistake in turn: it is named, and then corrected.
        for (number, correct, message) in [
            (
                13,
                "shell: /sh",
                "shell: the shell \"sh\" is not an absolute path",
            ),
            (2, "profile: tiny", "profile: unknown profile \"huge\""),
            (
                4,
                "  memoryMiB: 32",
                "resources.memoryMiB 1 is below the minimum of 32 MiB",
            ),
            (
                12,
                "mediation: {port: 1, target: 'a:1'}",
                "mediation.port: mediation port 0 is not a vsock port",
            ),
            (
                10,
                "    - hostPort: 81",
                "network.forwards[0]: a port to publish is from 1 to 65535",
            ),
            (
                7,
                "  - {name: b, path: b, mountpoint: /b}",
                "disks[1].mountpoint: invalid mount point \"data\": not an absolute path",
            ),
        ] {
            let failure = check(&["a", "--disk", "a=x:/x:ro"], &lines.join("\n")).unwrap_err();
            assert_eq!(failure.message, format!("a.yaml:{number}: {message}"));
            assert_eq!(failure.exit_code(1), 2);
            if number == 10 {
                lines[10] = "      guestPort: 80";
            }
            lines[number - 1] = correct;
        }
        let document = lines.join("\n");
        check(&["a"], &document).unwrap();
        for (flags, message) in [
            (["--profile", "huge"], "unknown profile \"huge\""),
            (["--hostname", "a b"], "invalid host name \"a b\""),
            (["--ttl", "0"], "--ttl 0 is below the minimum of 1 second"),
            (["--on-idle", "suspend"], "--on-idle needs --ttl"),
            (["--on-idle", "pause"], "unknown --on-idle \"pause\""),
            (
                ["--memory", "1"],
                "--memory 1 is below the minimum of 32 MiB",
            ),
            (
                ["--shell", "sh"],
                "the shell \"sh\" is not an absolute path",
            ),
            (
                ["--image", "A B"],
                "\"A B\" is not an image reference: the repository \"library/A B\" has upper-case letters",
            ),
        ] {
            let failure = check(&[&["a"][..], &flags].concat(), &document).unwrap_err();
            assert_eq!(failure.message, message);
        }
        let failure = check(&["a"], "image: A B").unwrap_err();
        let message = "a.yaml:1: image: \"A B\" is not an image reference: the repository \"library/A B\" has upper-case letters";
        assert_eq!(failure.message, message);
    }

    #[test]
    fn a_name_is_needed_and_must_agree() {
        let name =
            |line: &[&str], document: &str| check(line, document).map(|found| found.plan.name);
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
            (
                &[],
                "name: a_b",
                "a.yaml:1: name: invalid workspace name \"a_b\"",
            ),
        ] {
            let failure = name(line, document).unwrap_err();
            assert_eq!(failure.message, message);
            assert_eq!(failure.exit_code(1), 2);
        }
    }

    #[test]
    fn a_file_system_takes_the_place_of_an_image() {
        let disk = |line: &[&str], document: &str| {
            check(line, document)
                .map(|request| request.plan)
                .map(|request| match request.root {
                    RootPlan::Disk(plan) => {
                        assert_eq!(request.spec.rootfs.as_ref(), Some(&plan.path));
                        assert_eq!(request.spec.image, None);
                        assert_eq!(request.resources.size_mib, plan.size_mib);
                        plan
                    }
                    RootPlan::Image(plan) => panic!("{plan:?}"),
                })
        };
        let flags = ["--id", "a", "--rootfs", "/x.ext4"];
        let plan = disk(&flags, "image: busybox\nentrypoint: [ls, /]").unwrap();
        assert_eq!(plan.path, Path::new("/x.ext4"));
        assert_eq!(plan.argv, ["ls", "/"]);
        let plan = disk(&["a", "--profile", "medium"], "rootfs: x.ext4").unwrap();
        assert_eq!((plan.path, plan.size_mib), ("/base/x.ext4".into(), None));
        let plan = disk(&["a", "--size-mib", "9"], "rootfs: x").unwrap();
        assert_eq!(plan.size_mib, Some(9));
        let image = check(&["a", "--image", "busybox"], "rootfs: x.ext4")
            .unwrap()
            .plan;
        assert!(matches!(image.root, RootPlan::Image(_)), "{image:?}");
        assert_eq!(image.spec.rootfs, None);
        for (line, document, message) in [
            (&["a", "--rootfs", "x"][..], "", "--rootfs needs --id"),
            (
                &["--id", "a", "--rootfs", "x", "--image", "busybox"],
                "",
                "--image conflicts with --rootfs",
            ),
            (
                &["a"],
                "rootfs: x\nimage: busybox",
                "a.yaml:1: rootfs: image conflicts with rootfs",
            ),
            (
                &["--id", "a", "--rootfs", "x", "--image-command"],
                "",
                "imageCommand conflicts with rootfs: a file system has no command",
            ),
            (
                &["--id", "a", "--rootfs", "x", "--mke2fs", "/m"],
                "",
                "--mke2fs conflicts with rootfs",
            ),
            (
                &["b", "--id", "a", "--rootfs", "x"],
                "",
                "the name b conflicts with --name a",
            ),
        ] {
            let failure = disk(line, document).unwrap_err();
            assert_eq!(failure.message, message);
            assert_eq!(failure.exit_code(1), 2);
        }
    }

    #[test]
    fn invalid_networks_are_refused() {
        for (line, document, message) in [
            (
                &["a", "--publish", "80"][..],
                "",
                "--publish \"80\" has no guest port",
            ),
            (
                &["a", "--network", "host"],
                "",
                "unknown network mode \"host\"",
            ),
            (
                &["a", "--network", "isolated"],
                "network: {forwards: [{hostPort: 1, guestPort: 1}]}",
                "a.yaml:1: network.forwards: a guest without a network publishes no ports: mode \
                 isolated",
            ),
        ] {
            assert_eq!(check(line, document).unwrap_err().message, message);
        }
        check(&["a"], "network: {mode: isolated}").unwrap();
        check(&["a", "--network", "isolated"], "network: {mode: nat}").unwrap();
        check(&["a", "--network", "isolated"], "").unwrap();
    }
}
