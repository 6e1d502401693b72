//! `microagent apply`: a workspace becomes what a specification says.
//!
//! The specification is complete, as for `create`: a field that it does not have has its default.
//! `restart`, `health` and what is published can be changed at any time, `profile`, `resources`
//! (except the size of the root disk), `env`, `proxy`, `caCerts`, `timeoutSeconds`, `ttlSeconds`,
//! `onIdle` and the rest of `network` while the workspace does not run and is not suspended. If anything
//! else differs, nothing is written.

use std::collections::BTreeMap;

use microagent_pipeline::ErrorKind;
use microagent_workspace::client::Client;
use microagent_workspace::plan::Plan;
use microagent_workspace::saved;
use microagent_workspace::spec::{Forward, NetworkMode, Spec};
use microagent_workspace::start::recorded;
use serde::Serialize;
use serde_json::{Map, Value};

use super::create::{check_sizes, read_file, read_passed};
use super::{client, client_failure, get, lock};
use crate::args::{ApplyArgs, CreateArgs};
use crate::engine;
use crate::failure::Failure;
use crate::request::Variables;
use crate::request::create::CreateRequest;
use crate::request::resources;
use crate::run::disks;
use crate::run::network::{asked_or_default, check_host};
use crate::settings::Settings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    /// The fields that were changed.
    changed: Vec<String>,
}

/// Changes a workspace.
pub fn apply(args: &ApplyArgs, settings: &Settings) -> Result<u8, Failure> {
    let document = read_file(&args.file)?;
    if let (Some(name), Some(other)) = (&args.name, &document.spec.name)
        && name != other
    {
        let message = format!("the name {name} conflicts with name {other} of the specification");
        return Err(Failure::usage(message).remediation("give one name"));
    }
    let create = CreateArgs {
        positional: args.name.clone(),
        ..CreateArgs::default()
    };
    let request = CreateRequest::check(
        create,
        Variables::default(),
        &document,
        resources::host_cpus(),
        settings.network,
    )?;
    let mut plan = request.plan;
    // As `create` does it.
    plan.spec
        .network
        .get_or_insert_with(|| asked_or_default(None, settings));
    let name = &plan.name;
    let directory = get(settings, name)?;
    // Held while it is written, so that the workspace is not started with half of it.
    let lock = lock(&directory.lock())?;
    let before = directory.spec()?;
    let complete = plan.complete();
    let mut after = Spec {
        recorded: before.recorded.clone(),
        ..plan.spec
    };
    let mut changed = differences(&before, &after)?;
    if !changed.is_empty() {
        // A value that one leaves open, and the other has as `create` takes it, is no difference.
        let differ = differences(&completed(&before)?, &complete)?;
        changed.retain(|field| differ.contains(field));
    }
    // What a running workspace has does not depend on where this command is executed.
    if lock.is_some() {
        pass_on(&before, &mut after, &mut changed, settings)?;
    }
    let suspended = saved::suspended(&directory).is_some();
    for field in &changed {
        match &**field {
            "restart" | "health" => {}
            "network.forwards" if !suspended => {}
            "env"
            | "timeoutSeconds"
            | "ttlSeconds"
            | "onIdle"
            | "proxy"
            | "caCerts"
            | "profile"
            | "resources.memoryMiB"
            | "resources.cpuCount"
            | "network.mode"
            | "network.interface"
            | "network.egress"
            | "network.forwards" => {
                if lock.is_some() && !suspended {
                    continue;
                }
                let is = if suspended { "is suspended" } else { "runs" };
                let message = format!("{field} cannot be changed while workspace {name} {is}");
                return Err(Failure::new(ErrorKind::Conflict, message)
                    .remediation(format!("stop it first: microagent stop {name}")));
            }
            _ => {
                let message = format!("{field} of a workspace cannot be changed");
                let manifest = directory.path().join("spec.json");
                let remediation = format!("write it as it is in {}", manifest.display());
                return Err(Failure::new(ErrorKind::Unsupported, message).remediation(remediation));
            }
        }
    }
    let sizes = ["profile", "resources.memoryMiB", "resources.cpuCount"];
    if let Some(recorded) = &mut after.recorded
        && changed.iter().any(|field| sizes.contains(&&**field))
    {
        recorded.memory_mib = plan.resources.memory_mib;
        recorded.cpu_count = plan.resources.cpu_count;
    }
    let found = recorded(&after)?;
    check_sizes(&after, found)?;
    if changed.iter().any(|field| field == "network.mode") {
        let engine = engine::choose_with_notice(settings)?.engine;
        let count = after.disks.len() + after.bundles.len();
        disks::check_count(count, engine, network(&after) != NetworkMode::Isolated)?;
        check_host(network(&after))?;
    }
    if changed.iter().any(|field| field == "network.forwards") && lock.is_none() {
        publish(&client(&directory, name)?, name, &after)?;
    }
    if !changed.is_empty() {
        directory.write_spec(&after)?;
    }
    if settings.output.json {
        settings.output.document(&Document {
            workspace: plan.name,
            changed,
        })?;
    } else {
        settings.output.text(&format!("{name}\n"))?;
    }
    Ok(0)
}

fn network(spec: &Spec) -> NetworkMode {
    let network = spec.network.as_ref();
    network.map(|it| it.mode).unwrap_or_default()
}

/// Publishes what is new in the specification of a running workspace, and frees what is not in it,
/// also what `network` has published since the start. If a port is taken, everything is as before.
fn publish(client: &Client, name: &str, after: &Spec) -> Result<(), Failure> {
    let failed = |error| client_failure(error, name);
    let before = client.status().map_err(failed)?.published;
    let after: Vec<Forward> = (after.network.iter().flat_map(|it| it.forwards.clone())).collect();
    // First, because a port may lead to another one of the guest now.
    let gone: Vec<_> = before.iter().filter(|it| !after.contains(it)).collect();
    let mut done = Vec::new();
    let changed = (gone
        .iter()
        .try_for_each(|forward| client.unpublish(forward)))
    .and_then(|()| {
        let new = after.iter().filter(|it| !before.contains(it));
        new.into_iter().try_for_each(|forward| {
            client.publish(forward)?;
            done.push(forward);
            Ok(())
        })
    });
    changed.map_err(|error| {
        for forward in done {
            let _ = client.unpublish(forward);
        }
        for forward in gone {
            let _ = client.publish(forward);
        }
        failed(error)
    })
}

/// Records what the host passes to the workspace now, and names the fields for which it is not what it
/// was: a proxy of the environment may be another one, and a file may have other certificates.
fn pass_on(
    before: &Spec,
    after: &mut Spec,
    changed: &mut Vec<String>,
    settings: &Settings,
) -> Result<(), Failure> {
    let passed = read_passed(after, &[], settings)?;
    let former = recorded(before)?;
    let Some(record) = &mut after.recorded else {
        return Ok(());
    };
    let of_proxy = |variables: &BTreeMap<String, String>| {
        let mut variables = variables.clone();
        variables.retain(|name, _| name.to_ascii_lowercase().ends_with("_proxy"));
        variables
    };
    let is_other = [
        ("caCerts", passed.certificates != former.ca_certs),
        ("proxy", passed.proxy != of_proxy(&former.variables)),
    ];
    for (field, is_other) in is_other {
        if is_other && !changed.iter().any(|known| known == field) {
            changed.push(field.to_owned());
        }
    }
    changed.sort_unstable();
    // Otherwise `create` may have left out some that its caller did not have.
    if changed
        .iter()
        .any(|field| field == "proxy" || field == "caCerts")
    {
        passed.record(record, &[]);
    }
    Ok(())
}

/// What is recorded, with every value that it leaves open.
fn completed(before: &Spec) -> Result<Spec, Failure> {
    let found = recorded(before)?;
    let plan = Plan::try_from(Spec {
        recorded: None,
        ..before.clone()
    })?;
    let mut spec = plan.complete();
    // Another host may have another default.
    spec.resources.memory_mib = Some(found.memory_mib);
    spec.resources.cpu_count = Some(found.cpu_count);
    Ok(spec)
}

/// The names of the fields in which both differ; those of `resources` and `network` one by one.
fn differences(before: &Spec, after: &Spec) -> Result<Vec<String>, Failure> {
    let fields = |spec: &Spec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => Ok(flat(fields)),
        _ => Err(Failure::new(
            ErrorKind::Internal,
            "the specification is not an object",
        )),
    };
    let (before, after) = (fields(before)?, fields(after)?);
    let names = before.keys().chain(after.keys());
    let mut differ: Vec<String> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect();
    differ.sort_unstable();
    differ.dedup();
    Ok(differ)
}

fn flat(mut fields: Map<String, Value>) -> Map<String, Value> {
    for group in ["resources", "network"] {
        if let Some(Value::Object(members)) = fields.remove(group) {
            let named = members
                .into_iter()
                .map(|(name, value)| (format!("{group}.{name}"), value));
            fields.extend(named);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_differ_are_named() {
        let spec = |text: &str| Spec::from_yaml(text).unwrap();
        let before = spec("{name: a, env: {A: 1}, resources: {memoryMiB: 128, sizeMiB: 9}}");
        assert_eq!(differences(&before, &before).unwrap(), [""; 0]);
        let after = spec("{name: a, restart: always, resources: {memoryMiB: 256, sizeMiB: 9}}");
        assert_eq!(
            differences(&before, &after).unwrap(),
            ["env", "resources.memoryMiB", "restart"]
        );
    }
}
