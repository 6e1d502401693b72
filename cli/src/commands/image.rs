//! `microagent image …`: resolves references and detects changes.

use microagent_cas::Digest;
use microagent_pipeline::{Drift, DriftState, Image, ImageConfig};
use serde::Serialize;

use super::pipeline;
use crate::args::{DriftArgs, ImageCommand, ReferenceArgs};
use crate::document::ImageDocument;
use crate::failure::Failure;
use crate::request::reference;
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

/// Runs a subcommand of `image`.
pub fn image(
    command: ImageCommand,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    match command {
        ImageCommand::Resolve(args) => resolve(&args, settings, termination),
        ImageCommand::Drift(args) => drift(&args, settings, termination),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    image: ImageDocument,
    /// The previous result for this reference; null if it was never resolved here.
    recorded: Option<Digest>,
    /// Whether the result differs from the previous one.
    moved: bool,
    config: ConfigDocument,
    layers: Vec<LayerDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDocument {
    digest: Digest,
    env: Vec<String>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    working_dir: String,
    user: String,
    stop_signal: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerDocument {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    media_type: String,
}

impl ConfigDocument {
    fn new(image: &Image) -> ConfigDocument {
        let ImageConfig {
            env,
            working_dir,
            user,
            entrypoint,
            cmd,
            stop_signal,
        } = image.config.clone();
        ConfigDocument {
            digest: image.config_digest,
            env,
            entrypoint,
            command: cmd,
            working_dir,
            user,
            stop_signal,
        }
    }
}

fn resolve(
    args: &ReferenceArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let reference = reference(&args.reference)?;
    let pipeline = pipeline::open(settings, termination)?;
    let recorded = pipeline.recorded_root(&reference)?;
    let image = pipeline.resolve(&reference)?;
    if settings.output.json {
        settings.output.document(&Resolved {
            image: ImageDocument::new(&image),
            recorded,
            moved: recorded.is_some_and(|recorded| recorded != image.root),
            config: ConfigDocument::new(&image),
            layers: (image.layers.iter().cloned())
                .map(|layer| LayerDocument {
                    digest: layer.digest,
                    size: layer.size,
                    diff_id: layer.diff_id,
                    media_type: layer.media_type,
                })
                .collect(),
        })?;
    } else {
        settings.output.text(&format!("{}\n", image.resolved))?;
    }
    Ok(0)
}

/// Exits with 0 if everything is unchanged, otherwise with 1.
fn drift(args: &DriftArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let references = (args.references.iter())
        .map(|text| reference(text))
        .collect::<Result<Vec<_>, _>>()?;
    let pipeline = pipeline::open(settings, termination)?;
    let report = pipeline.drift(&references)?;
    let code = u8::from(!report.ok);
    if settings.output.json {
        settings.output.document(&report)?;
        return Ok(code);
    }
    let rows: Vec<_> = (report.images.iter().chain(&report.files))
        .map(|drift| vec![state(drift).to_owned(), drift.name.clone(), detail(drift)])
        .collect();
    settings.output.text(&table(&rows))?;
    Ok(code)
}

fn state(drift: &Drift) -> &'static str {
    match drift.state {
        DriftState::Same => "same",
        DriftState::Moved => "moved",
        DriftState::Gone => "gone",
        DriftState::Unknown => "unknown",
    }
}

fn detail(drift: &Drift) -> String {
    let since = &drift.recorded_at;
    match (&drift.current, &drift.why) {
        (Some(current), _) if *current != drift.recorded => {
            format!("from {} to {current} since {since}", drift.recorded)
        }
        (_, Some(why)) => why.clone(),
        _ => drift.recorded.to_string(),
    }
}
