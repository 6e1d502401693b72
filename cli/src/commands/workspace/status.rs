//! `microagent status`, `list` and `ps`.

use std::path::PathBuf;

use microagent_workspace::event::Event;
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::{RecordedImage, Spec};
use microagent_workspace::state::State;
use serde::Serialize;

use super::{get, state_of, workspaces};
use crate::args::NameArgs;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::table;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    state: State,
    state_dir: PathBuf,
    runtime_id: Option<String>,
    created_at: Option<String>,
    image: Option<Image>,
    event: Option<Event>,
    result: Option<WorkloadResult>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    reference: String,
    resolved: String,
    digest: String,
}

impl Image {
    fn new(image: &RecordedImage) -> Image {
        Image {
            reference: image.reference.clone(),
            resolved: image.resolved.clone(),
            digest: image.digest.clone(),
        }
    }
}

/// Prints the state of a workspace.
pub fn status(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let spec = directory.spec()?;
    let (state, event) = state_of(&directory)?;
    let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
    let recorded = spec.recorded.as_ref();
    let document = Document {
        workspace: args.name.clone(),
        state,
        state_dir: settings.state_dir.clone(),
        runtime_id: recorded.map(|recorded| recorded.runtime_id.clone()),
        created_at: recorded.map(|recorded| recorded.created_at.clone()),
        image: recorded.map(|recorded| Image::new(&recorded.image)),
        event,
        result,
    };
    if settings.output.json {
        settings.output.document(&document)?;
    } else {
        settings.output.text(&text(&document))?;
    }
    Ok(0)
}

fn text(document: &Document) -> String {
    let mut rows = vec![("workspace", document.workspace.clone())];
    rows.push(("state", document.state.to_string()));
    if let Some(event) = &document.event {
        rows.push(("since", event.observed_at.clone()));
        rows.extend(event.detail.clone().map(|detail| ("detail", detail)));
    }
    if let Some(image) = &document.image {
        rows.push(("image", image.resolved.clone()));
    }
    rows.extend((document.created_at.clone()).map(|created| ("created", created)));
    if let Some(code) = document.result.as_ref().and_then(|result| result.exit_code) {
        rows.push(("exit code", code.to_string()));
    }
    let cells = |(name, value): &(&str, String)| vec![(*name).to_owned(), value.clone()];
    table(&rows.iter().map(cells).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workspace: String,
    state: State,
    image: Option<String>,
    created_at: Option<String>,
}

/// Lists all workspaces, or only those that run. None is asked: the lock says whether it lives.
pub fn list(only_live: bool, settings: &Settings) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for name in workspaces(settings).names()? {
        // Deleted meanwhile.
        let Ok(directory) = workspaces(settings).get(&name) else {
            continue;
        };
        let state = match state_of(&directory) {
            Ok((state, _)) => state,
            // A damaged one does not hide the others.
            Err(_) if directory.path().exists() => State::Failed,
            Err(_) => continue,
        };
        if only_live && !state.is_live() {
            continue;
        }
        let recorded = directory.spec().ok().and_then(|spec: Spec| spec.recorded);
        rows.push(Row {
            workspace: name,
            state,
            image: recorded
                .as_ref()
                .map(|recorded| recorded.image.reference.clone()),
            created_at: recorded.map(|recorded| recorded.created_at),
        });
    }
    if settings.output.json {
        settings.output.document(&rows)?;
        return Ok(0);
    }
    let mut lines = vec![
        ["NAME", "STATE", "IMAGE", "CREATED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        lines.push(vec![
            row.workspace,
            row.state.to_string(),
            row.image.unwrap_or_default(),
            row.created_at.unwrap_or_default(),
        ]);
    }
    settings.output.text(&table(&lines))?;
    Ok(0)
}
