//! `microagent logs`, `events`, `result` and `spec`.

use std::fs;
use std::io;
use std::path::Path;

use microagent_pipeline::ErrorKind;
use microagent_workspace::event;
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::schema;
use serde::Serialize;

use super::get;
use crate::args::{LogsArgs, NameArgs, SpecArgs};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;
use crate::table::table;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logs<'a> {
    workspace: &'a str,
    text: String,
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        kind_of(error),
        format!("cannot read {}: {error}", path.display()),
    )
}

/// Prints the end of what the workload wrote, or of the guest's console.
pub fn logs(args: &LogsArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let path = match args.console {
        true => directory.console(),
        false => directory.output(),
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    match settings.output.json {
        true => settings.output.document(&Logs {
            workspace: &args.name,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })?,
        false => settings.output.bytes(&bytes)?,
    }
    Ok(0)
}

/// Prints the history of a workspace.
pub fn events(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let events =
        event::history(directory.path()).map_err(|error| unreadable(directory.path(), &error))?;
    if settings.output.json {
        settings.output.document(&events)?;
        return Ok(0);
    }
    let row = |event: event::Event| {
        vec![
            event.observed_at,
            event.state.to_string(),
            event.detail.unwrap_or_default(),
        ]
    };
    settings
        .output
        .text(&table(&events.into_iter().map(row).collect::<Vec<_>>()))?;
    Ok(0)
}

/// Prints how the workload ended.
pub fn result(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let path = directory.result();
    let result = WorkloadResult::read(&path).map_err(|error| unreadable(&path, &error))?;
    let Some(result) = result else {
        let spec = directory.spec()?;
        if spec
            .recorded
            .is_some_and(|recorded| recorded.argv.is_empty())
        {
            return Err(Failure::new(
                ErrorKind::NotFound,
                format!("workspace {} has no workload", args.name),
            ));
        }
        return Err(Failure::new(
            ErrorKind::NotFound,
            format!("the workload of {} has not ended yet", args.name),
        )
        .remediation(format!("wait for it: microagent wait {}", args.name)));
    };
    settings.output.document(&result)?;
    Ok(0)
}

/// Prints the JSON Schema of specifications.
pub fn spec(_: &SpecArgs, settings: &Settings) -> Result<u8, Failure> {
    settings.output.document(&schema())?;
    Ok(0)
}
