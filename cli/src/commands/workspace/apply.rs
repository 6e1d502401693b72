//! `microagent apply`: a workspace becomes what a specification says.
//!
//! The specification is complete, as for `create`: a field that it does not have has its default.
//! `restart` and `health` can be changed at any time, `profile`, `resources` (except the size of the
//! root disk) and `env` while the workspace does not run. If anything else differs, nothing is written.

use microagent_pipeline::ErrorKind;
use microagent_workspace::lock::Lock;
use microagent_workspace::spec::Spec;
use microagent_workspace::start::recorded;
use serde::Serialize;
use serde_json::{Map, Value};

use super::create::{check_sizes, parent, read_file};
use super::get;
use crate::args::{ApplyArgs, CreateArgs};
use crate::failure::{Failure, kind_of};
use crate::request::Variables;
use crate::request::create::CreateRequest;
use crate::request::resources;
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
    let base = parent(&args.file)?;
    if let (Some(name), Some(other)) = (&args.name, &document.name)
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
        document,
        &base,
        resources::host_cpus(),
    )?;
    let name = &request.name;
    let directory = get(settings, name)?;
    // Held while it is written, so that the workspace is not started with half of it.
    let path = directory.lock();
    let lock = Lock::acquire(&path).map_err(|error| {
        let message = format!("cannot lock {}: {error}", path.display());
        Failure::new(kind_of(&error), message)
    })?;
    let before = directory.spec()?;
    let mut after = Spec {
        recorded: before.recorded.clone(),
        ..request.spec
    };
    let changed = differences(&before, &after)?;
    for field in &changed {
        match &**field {
            "restart" | "health" => {}
            "env" | "profile" | "resources.memoryMiB" | "resources.cpuCount" if lock.is_some() => {}
            "env" | "profile" | "resources.memoryMiB" | "resources.cpuCount" => {
                let message = format!("{field} cannot be changed while workspace {name} runs");
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
        recorded.memory_mib = request.run.resources.memory_mib;
        recorded.cpu_count = request.run.resources.cpu_count;
    }
    let found = recorded(&after).map_err(|error| Failure::caused(ErrorKind::Corrupt, &error))?;
    check_sizes(&after, found)?;
    if !changed.is_empty() {
        directory.write_spec(&after)?;
    }
    if settings.output.json {
        settings.output.document(&Document {
            workspace: request.name,
            changed,
        })?;
    } else {
        settings.output.text(&format!("{name}\n"))?;
    }
    Ok(0)
}

/// The names of the fields in which both differ; those of `resources` one by one.
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
    if let Some(Value::Object(resources)) = fields.remove("resources") {
        let named = resources
            .into_iter()
            .map(|(name, value)| (format!("resources.{name}"), value));
        fields.extend(named);
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
