//! `microagent status`, `list` and `ps`.

use std::path::PathBuf;

use microagent_cas::Store;
use microagent_proto::error_chain;
use microagent_workspace::event::Event;
use microagent_workspace::readiness::{Readiness, readiness};
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::{RecordedImage, Restart};
use microagent_workspace::start::role;
use microagent_workspace::state::State;
use microagent_workspace::verification::{Current, Divergence, Verification, verify};
use serde::Serialize;

use super::{get, state_of, workspaces};
use crate::args::StatusArgs;
use crate::commands::pipeline;
use crate::failure::Failure;
use crate::request::reference;
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

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
    verification: Option<Verification>,
    readiness: Readiness,
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

/// Prints the state of a workspace. Exits with 0 whatever it is.
pub fn status(
    args: &StatusArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let spec = directory.spec()?;
    let (state, event) = state_of(&directory)?;
    let recorded = spec.recorded.as_ref();
    let current = match recorded {
        Some(recorded) if args.refresh => Some(current(&recorded.image, settings, termination)?),
        _ => None,
    };
    let verification = recorded
        .map(|recorded| {
            let store = Store::open(&settings.store_dir())?;
            verify(&store, &spec, recorded, current)
        })
        .transpose()?;
    let document = Document {
        workspace: args.name.clone(),
        state,
        state_dir: settings.state_dir.clone(),
        runtime_id: recorded.map(|recorded| recorded.runtime_id.clone()),
        created_at: recorded.map(|recorded| recorded.created_at.clone()),
        image: recorded.map(|recorded| Image::new(&recorded.image)),
        event,
        result: WorkloadResult::read(&directory.result()).unwrap_or_default(),
        verification,
        readiness: readiness(&directory, &spec, state),
    };
    if settings.output.json {
        settings.output.document(&document)?;
    } else {
        settings.output.text(&text(&document))?;
    }
    Ok(0)
}

/// What the reference of an image names now. A registry that cannot be asked is not an error.
fn current(
    image: &RecordedImage,
    settings: &Settings,
    termination: &Termination,
) -> Result<Current, Failure> {
    let reference = reference(&image.reference)?;
    let pipeline = pipeline::open(settings, termination)?;
    Ok(match pipeline.current_root(&reference) {
        Ok(Some(digest)) => Current::Digest(digest),
        Ok(None) => Current::Gone,
        Err(error) => {
            let why = error_chain(&error);
            settings
                .output
                .notice(&format!("cannot ask for {}: {why}", image.reference));
            Current::Unknown
        }
    })
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
    let verification = document.verification.as_ref();
    for differs in verification.iter().flat_map(|all| &all.divergence) {
        let Divergence {
            artifact,
            field,
            expected,
            actual,
        } = differs;
        let text = format!("{artifact}: {field} is {actual}, recorded {expected}");
        rows.push(("differs", text));
    }
    if let Some(current) = verification.and_then(|all| all.image.current.clone()) {
        rows.push(("current", current));
    }
    if document.state == State::Running {
        let readiness = &document.readiness;
        let probes = [
            ("guest", &readiness.guest_ready),
            ("shell", &readiness.shell_ready),
        ];
        for (what, probe) in probes {
            if let Some(why) = &probe.detail {
                rows.push(("not ready", format!("{what}: {why}")));
            }
        }
    }
    let cells = |(name, value): &(&str, String)| vec![(*name).to_owned(), value.clone()];
    table(&rows.iter().map(cells).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workspace: String,
    state: State,
    /// When it came into this state.
    since: Option<String>,
    runtime_id: Option<String>,
    role: String,
    engine: Option<String>,
    #[serde(rename = "memoryMiB")]
    memory_mib: Option<u64>,
    cpu_count: Option<u32>,
    restart: Restart,
    /// How its workload ended.
    exit_code: Option<i32>,
    signal: Option<i32>,
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
        let (state, event) = match state_of(&directory) {
            Ok(found) => found,
            // A damaged one does not hide the others.
            Err(_) if directory.path().exists() => (State::Failed, None),
            Err(_) => continue,
        };
        if only_live && !state.is_live() {
            continue;
        }
        let spec = directory.spec().unwrap_or_default();
        let recorded = spec.recorded.as_ref();
        let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
        rows.push(Row {
            workspace: name,
            state,
            since: event.as_ref().map(|event| event.observed_at.clone()),
            runtime_id: recorded.map(|recorded| recorded.runtime_id.clone()),
            role: role(&spec).to_owned(),
            engine: event.and_then(|event| event.engine),
            memory_mib: recorded.map(|recorded| recorded.memory_mib),
            cpu_count: recorded.map(|recorded| recorded.cpu_count),
            restart: spec.restart.unwrap_or_default(),
            exit_code: result.as_ref().and_then(|result| result.exit_code),
            signal: result.as_ref().and_then(|result| result.signal),
            image: recorded.map(|recorded| recorded.image.reference.clone()),
            created_at: recorded.map(|recorded| recorded.created_at.clone()),
        });
    }
    if settings.output.json {
        settings.output.document(&rows)?;
        return Ok(0);
    }
    let mut lines = vec![
        ["NAME", "STATE", "EXIT", "SINCE", "IMAGE", "CREATED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let exit = match (row.exit_code, row.signal) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => String::new(),
        };
        lines.push(vec![
            row.workspace,
            row.state.to_string(),
            exit,
            row.since.unwrap_or_default(),
            row.image.unwrap_or_default(),
            row.created_at.unwrap_or_default(),
        ]);
    }
    settings.output.text(&table(&lines))?;
    Ok(0)
}
