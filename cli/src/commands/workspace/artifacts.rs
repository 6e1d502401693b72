//! `microagent artifacts`.

use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use microagent_workspace::spec::OutputPath;
use microagent_workspace::summary::{Summarized, Summary};
use serde::Serialize;

use super::files::Files;
use crate::args::{ArtifactArgs, ArtifactsCommand, NameArgs};
use crate::failure::Failure;
use crate::host_files;
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    /// The path in the guest.
    path: String,
    /// `file` or `directory`; null if it does not exist.
    r#type: Option<&'static str>,
    digest: Option<String>,
    size: Option<u64>,
}

/// Lists or copies the outputs of a workspace.
pub fn artifacts(
    command: ArtifactsCommand,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    match command {
        ArtifactsCommand::List(args) => list(&args, settings, termination),
        ArtifactsCommand::Get(args) => get(&args, settings, termination),
    }
}

fn list(args: &NameArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let files = Files::of(&args.name, settings, termination)?;
    let mut listed = Vec::new();
    for output in &files.spec.outputs {
        let mut summary = Summary::default();
        let found = match files.read(output.path.as_bytes(), true, &mut summary) {
            Ok(()) => Some(summary.finish()),
            Err(failure) if failure.kind == ErrorKind::NotFound => None,
            Err(failure) => return Err(failure),
        };
        listed.push(Listed {
            name: output.name.clone(),
            path: output.path.clone(),
            r#type: found.map(|found| type_name(&found)),
            digest: found.map(|found| found.digest.to_string()),
            size: found.map(|found| found.size),
        });
    }
    if settings.output.json {
        settings.output.document(&listed)?;
        return Ok(0);
    }
    let mut rows = vec![["NAME", "TYPE", "SIZE", "PATH"].map(str::to_owned).to_vec()];
    for output in listed {
        rows.push(vec![
            output.name,
            output.r#type.unwrap_or("missing").to_owned(),
            output.size.map(|size| size.to_string()).unwrap_or_default(),
            output.path,
        ]);
    }
    settings.output.text(&table(&rows))?;
    Ok(0)
}

fn type_name(found: &Summarized) -> &'static str {
    match found.is_directory {
        true => "directory",
        false => "file",
    }
}

fn get(args: &ArtifactArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let files = Files::of(&args.name, settings, termination)?;
    let outputs = &files.spec.outputs;
    let Some(output) = outputs.iter().find(|output| output.name == args.output) else {
        let message = format!("workspace {} has no output {:?}", args.name, args.output);
        let failure = Failure::new(ErrorKind::NotFound, message);
        return Err(failure.remediation(format!(
            "list them: microagent artifacts list {}",
            args.name
        )));
    };
    let to = destination(output, args.to.as_deref())?;
    let document = host_files::copy_output(output, &to, settings.output, termination, |sink| {
        files.read(output.path.as_bytes(), true, sink)
    })?;
    match settings.output.json {
        true => settings.output.document(&document)?,
        false => settings.output.text(&format!("{}\n", to.display()))?,
    }
    Ok(0)
}

/// Where an output is copied to: the given path, or the output's name in it if it is a directory.
/// A directory with that name is not merged with the output.
fn destination(output: &OutputPath, to: Option<&Path>) -> Result<PathBuf, Failure> {
    let to = match to {
        Some(path) if !path.is_dir() => return Ok(path.to_owned()),
        Some(directory) => directory.join(&output.name),
        None => PathBuf::from(&output.name),
    };
    match to.is_dir() {
        true => Err(Failure::new(
            ErrorKind::Conflict,
            format!("{} is a directory that exists already", to.display()),
        )
        .remediation("remove it, or copy to another path: --to PATH")),
        false => Ok(to),
    }
}
