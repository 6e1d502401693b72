//! A specification whose values fit together. No file is read, and nothing else is asked.

pub mod disks;
mod error;
pub mod mediation;
pub mod name;
pub mod network;
pub mod outputs;
pub mod proxy;
pub mod resources;
mod root;

use std::path::PathBuf;

pub use error::{Invalid, PlanError, in_field};

use crate::prepare::RootPlan;
use crate::spec::{DEFAULT_ROLE, DEFAULT_SHELL, Entrypoint, Field, Health, Spec};
use disks::DiskRequest;
use resources::Resources;

/// What a workspace will consist of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// The specification, with the image if it did not name one.
    pub spec: Spec,
    /// Its root file system.
    pub root: RootPlan,
    /// VM size.
    pub resources: Resources,
    /// Additional disks.
    pub disks: Vec<DiskRequest>,
}

/// What a plan depends on beside the specification.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many CPUs this process may use: a VM has two unless there is only one, or the specification
    /// says otherwise.
    pub host_cpus: u32,
    /// The mke2fs to use instead of the built-in writer of file systems.
    pub mke2fs: Option<PathBuf>,
}

impl TryFrom<Spec> for Plan {
    type Error = PlanError;

    /// A plan for this host.
    fn try_from(spec: Spec) -> Result<Plan, PlanError> {
        Plan::new(
            spec,
            Options {
                host_cpus: resources::host_cpus(),
                mke2fs: None,
            },
        )
    }
}

impl Plan {
    /// Validates `spec`, whose paths are absolute.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn new(mut spec: Spec, options: Options) -> Result<Plan, PlanError> {
        if spec.recorded.is_some() {
            return Err(PlanError::invalid("recorded is a field of manifests")
                .at(Field::new("recorded"))
                .remediation("remove it: create records what it resolves"));
        }
        let Some(name) = spec.name.clone() else {
            return Err(PlanError::invalid("the workspace has no name")
                .remediation("use microagent create NAME --image REF"));
        };
        name::check(&name, "workspace").map_err(|error| error.at(Field::new("name")))?;
        if spec.entrypoint.is_some() && spec.image_command {
            return Err(PlanError::invalid("entrypoint conflicts with imageCommand")
                .at(Field::new("entrypoint"))
                .remediation("use one of them"));
        }
        if let Some(hostname) = &spec.hostname {
            name::check_hostname(hostname).map_err(|error| error.at(Field::new("hostname")))?;
        }
        for (field, value) in [
            ("timeoutSeconds", spec.timeout_seconds),
            ("ttlSeconds", spec.ttl_seconds),
        ] {
            not_zero(Field::new(field), value)?;
        }
        if spec.on_idle.is_some() && spec.ttl_seconds.is_none() {
            return Err(PlanError::invalid("onIdle needs ttlSeconds")
                .at(Field::new("onIdle"))
                .remediation("as in: {ttlSeconds: 600, onIdle: suspend}"));
        }
        check_words(&spec)?;
        outputs::check(&spec.outputs)?;
        check_shell(spec.shell.as_deref())?;
        spec.health.as_ref().map_or(Ok(()), check_health)?;
        let mut resources =
            resources::resolve(spec.profile.as_deref(), &spec.resources, options.host_cpus)?;
        spec.mediation.as_ref().map_or(Ok(()), mediation::check)?;
        spec.network.as_ref().map_or(Ok(()), network::check)?;
        proxy::check(&spec)?;
        let disks = disks::check(&spec.disks, &spec.bundles)?;
        if spec.rootfs.is_some() {
            // That of a profile is for the file system of an image.
            resources.size_mib = spec.resources.size_mib;
        }
        let root = root::plan(&mut spec, resources.size_mib, options.mke2fs)?;
        Ok(Plan {
            name,
            spec,
            root,
            resources,
            disks,
        })
    }
}

impl Plan {
    /// The specification with every value that it leaves open, as `create` takes it. What a tag of an
    /// image names is not among them: that is found out when the workspace is created.
    pub fn complete(&self) -> Spec {
        let mut spec = self.spec.clone();
        let text = |value: &str| value.to_owned();
        spec.role.get_or_insert_with(|| text(DEFAULT_ROLE));
        spec.restart.get_or_insert_default();
        spec.shell.get_or_insert_with(|| text(DEFAULT_SHELL));
        spec.hostname.get_or_insert_with(|| self.name.clone());
        spec.network.get_or_insert_default();
        spec.resources = crate::spec::Resources {
            memory_mib: Some(self.resources.memory_mib),
            cpu_count: Some(self.resources.cpu_count),
            size_mib: self.resources.size_mib,
        };
        spec
    }
}

/// Refuses a health check that checks nothing, or never ends.
fn check_health(health: &Health) -> Result<(), PlanError> {
    if health.check().is_none() {
        return Err(PlanError::invalid(
            "health needs either exec, or httpGet with a path and port",
        )
        .at(Field::new("health"))
        .remediation("as in: health: {httpGet: /healthz, port: 8080}"));
    }
    for (field, value) in [
        ("intervalSeconds", health.interval_seconds),
        ("timeoutSeconds", health.timeout_seconds),
        ("retries", health.retries),
    ] {
        not_zero(Field::new("health").name(field), Some(value))?;
    }
    let path = health.http_get.as_deref().unwrap_or_default();
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        let message = format!("health.httpGet {path:?} is not a path of a URL");
        return Err(PlanError::invalid(message).at(Field::new("health.httpGet")));
    }
    Ok(())
}

fn not_zero(field: Field, value: Option<u32>) -> Result<(), PlanError> {
    match value {
        Some(0) => Err(
            PlanError::invalid(format!("{field} is below the minimum of 1"))
                .at(field)
                .remediation("use 1 or more, or omit it"),
        ),
        _ => Ok(()),
    }
}

/// Refuses what no program can be given: names of variables that are empty or contain `=`, and NUL
/// bytes.
fn check_words(spec: &Spec) -> Result<(), PlanError> {
    let invalid = |field: Field, what: &str| {
        Err(PlanError::invalid(format!("{what} contains a NUL byte")).at(field))
    };
    for (name, value) in &spec.env {
        let field = || Field::new("env").name(name);
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{name:?} is not the name of a variable");
            return Err(PlanError::invalid(message).at(field()));
        }
        if value.contains('\0') {
            return invalid(field(), &format!("the value of variable {name}"));
        }
    }
    if let Some(index) = spec.setup.iter().position(|line| line.contains('\0')) {
        return invalid(Field::new("setup").index(index), "a command");
    }
    let mut entrypoint = spec.entrypoint.iter().flat_map(Entrypoint::argv);
    match entrypoint.any(|word| word.contains('\0')) {
        true => invalid(Field::new("entrypoint"), "a command"),
        false => Ok(()),
    }
}

/// The shell is a path in the guest; whether there is a program is known when it runs.
///
/// # Errors
/// When it is not an absolute path.
pub fn check_shell(shell: Option<&str>) -> Result<(), PlanError> {
    match shell {
        Some(path) if !path.starts_with('/') || path.contains('\0') => Err(PlanError::invalid(
            format!("the shell {path:?} is not an absolute path"),
        )
        .at(Field::new("shell"))
        .remediation("use the path that it has in the guest, as in --shell /bin/bash")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, String> {
        let options = Options {
            host_cpus: 1,
            mke2fs: None,
        };
        let spec = Spec::from_yaml(text).unwrap();
        Plan::new(spec, options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plan_has_every_value_that_the_specification_leaves_open() {
        let found = plan("name: a").unwrap();
        assert_eq!(
            found.spec.image.as_deref(),
            Some("docker.io/library/python:3.13-slim")
        );
        let resources = &found.resources;
        assert_eq!((resources.memory_mib, resources.cpu_count), (512, 1));
        assert_eq!(resources.size_mib, None);
        let complete = found.complete();
        let expected = Spec::from_yaml(
            "{name: a, image: docker.io/library/python:3.13-slim, role: workload, restart: never, shell: /bin/sh,
              hostname: a, network: {mode: user}, resources: {memoryMiB: 512, cpuCount: 1}}",
        );
        assert_eq!(complete, expected.unwrap());
        // As it is, it is a request for the same.
        assert_eq!(plan(&complete.to_json()).unwrap().complete(), complete);
        assert!(Plan::try_from(found.spec).is_ok());
        let text = "{name: a, profile: tiny, resources: {memoryMiB: 300}, restart: always, shell: /bin/ash, hostname: b, role: r}";
        let complete = plan(text).unwrap().complete();
        let values = (complete.resources.memory_mib, complete.resources.cpu_count);
        assert_eq!(values, (Some(300), Some(1)));
        assert_eq!(complete.resources.size_mib, Some(512));
        let kept = [&complete.shell, &complete.hostname, &complete.role];
        let kept = kept.map(|value| value.as_deref().unwrap());
        assert_eq!(kept, ["/bin/ash", "b", "r"]);
    }

    #[test]
    fn values_that_do_not_fit_together_are_named() {
        let disk = |name, mount| format!("{{name: {name}, path: /x, mountpoint: {mount}}}");
        for (text, expected) in [
            ("{}", "the workspace has no name"),
            ("name: A", "name: invalid workspace name \"A\""),
            (
                "{name: a, hostname: -a}",
                "hostname: invalid host name \"-a\"",
            ),
            (
                "{name: a, env: {A: x, B=: y}}",
                "env.B=: \"B=\" is not the name of a variable",
            ),
            (
                "{name: a, setup: [ls, \"a\\0\"]}",
                "setup[1]: a command contains a NUL byte",
            ),
            (
                "{name: a, shell: sh}",
                "shell: the shell \"sh\" is not an absolute path",
            ),
            ("{name: a, onIdle: suspend}", "onIdle needs ttlSeconds"),
            (
                "{name: a, ttlSeconds: 0}",
                "ttlSeconds is below the minimum of 1",
            ),
            (
                "{name: a, health: {exec: [a], retries: 0}}",
                "health.retries is below the minimum of 1",
            ),
            ("{name: a, image: B D}", "\"B D\" is not an image reference"),
            (
                "{name: a, profile: huge}",
                "profile: unknown profile \"huge\"",
            ),
            (
                "{name: a, resources: {memoryMiB: 1}}",
                "resources.memoryMiB 1 is below the minimum of 32 MiB",
            ),
            (
                "{name: a, resources: {cpuCount: 65}}",
                "resources.cpuCount 65 is above the maximum of 64",
            ),
            (
                "{name: a, entrypoint: ls, imageCommand: true}",
                "entrypoint conflicts with imageCommand",
            ),
            (
                "{name: a, mediation: {port: 0, target: 'a:1'}}",
                "mediation.port: mediation port 0 is not a vsock port",
            ),
            (
                "{name: a, outputs: [{name: o, path: x}]}",
                "outputs[0].path: output o: invalid path \"x\": not an absolute path",
            ),
            (
                &format!(
                    "{{name: a, disks: [{}, {}]}}",
                    disk("d", "/a"),
                    disk("e", "//a/.")
                ),
                "disks[1].mountpoint: disks \"d\" and \"e\" have the same mount point /a",
            ),
            (
                &format!("{{name: a, bundles: [{}]}}", disk("d", "/dev/x")),
                "bundles[0].mountpoint: invalid mount point \"/dev/x\": /dev belongs to the kernel",
            ),
            (
                "{name: a, network: {mode: bridged}}",
                "network.mode: network mode bridged needs a bridge of the host",
            ),
            (
                "{name: a, network: {mode: bridged, interface: Wi-Fi (en0)}}",
                "network.interface: \"Wi-Fi (en0)\" is not the name of a Linux interface",
            ),
            (
                "{name: a, network: {mode: bridged, interface: abcdefghijklmnop}}",
                "network.interface: \"abcdefghijklmnop\" is not the name of a Linux interface",
            ),
            (
                "{name: a, proxy: 'http://127.0.0.1:1'}",
                "proxy: the proxy 127.0.0.1:1 is on this host's loopback interface",
            ),
            (
                "{name: a, proxy: host, network: {mode: isolated}}",
                "proxy: a guest without a network reaches no proxy: mode isolated",
            ),
        ] {
            let error = plan(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
