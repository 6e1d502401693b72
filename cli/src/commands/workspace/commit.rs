//! `microagent commit`.

use std::path::PathBuf;

use microagent_pipeline::{ErrorKind, Image, Pipeline, Reference, Selector};
use microagent_workspace::event::now;
use microagent_workspace::image_layout::{LayoutError, NewImage, add_image};
use microagent_workspace::layer::{LayerError, write_layer};
use microagent_workspace::spec::RecordedImage;
use microagent_workspace::start;
use serde::Serialize;

use super::create::internal;
use super::diff::{Compared, compare};
use crate::args::CommitArgs;
use crate::commands::pipeline;
use crate::failure::{Failure, kind_of};
use crate::request::reference;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    reference: String,
    /// Of the manifest.
    digest: String,
    /// How many paths differ from the image.
    changes: usize,
}

/// Makes an image of a workspace that does not run.
pub fn commit(
    args: &CommitArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let to = reference(&args.reference)?;
    let (directory, tag) = destination(&to, args.push)?;
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let compared = compare(&args.name, settings, store)?;
    let recorded = start::recorded(&compared.spec).map_err(|error| internal(&error))?;
    let base = base_image(&pipeline, &recorded.image)?;
    pipeline.fetch_layers(&base)?;
    let Compared {
        workspace, changed, ..
    } = &compared;
    let mut sockets = 0;
    let created = now();
    let image = NewImage {
        base: &base,
        tag: &tag,
        created: &created,
        created_by: &format!("microagent commit {}", args.name),
    };
    let digest = add_image(store, &directory, &image, |out| {
        sockets = write_layer(workspace, changed, out)?;
        Ok(())
    })?;
    if sockets > 0 {
        let message = format!("{sockets} sockets are not in the image");
        settings.output.notice(&message);
    }
    match settings.output.json {
        true => settings.output.document(&Document {
            workspace: &args.name,
            reference: to.to_string(),
            digest: digest.to_string(),
            changes: changed.len(),
        })?,
        false => settings.output.text(&format!("{to} {digest}\n"))?,
    }
    Ok(0)
}

/// The directory and the tag of the layout.
fn destination(to: &Reference, push: bool) -> Result<(PathBuf, String), Failure> {
    match to {
        Reference::OciLayout {
            path,
            select: Selector::Name(tag),
        } if !push => Ok((path.clone(), tag.clone())),
        _ => {
            let failure = match push {
                true => {
                    Failure::new(ErrorKind::Unsupported, "--push is not available yet").exits(2)
                }
                false => Failure::usage(format!("{to} is not an image of an OCI layout")),
            };
            Err(failure.remediation(
                "commit to oci:DIR:TAG, and copy that: skopeo copy oci:DIR:TAG docker://REF",
            ))
        }
    }
}

/// The image that the workspace was made from.
fn base_image(pipeline: &Pipeline, recorded: &RecordedImage) -> Result<Image, Failure> {
    let pinned = reference(&recorded.resolved)?;
    let is_it = |image: &Image| image.digest.to_string() == recorded.digest;
    for known in [&pinned, &reference(&recorded.reference)?] {
        if let Some(image) = pipeline.recorded_image(known)?
            && is_it(&image)
        {
            return Ok(image);
        }
    }
    let image = pipeline.resolve(&pinned)?;
    match is_it(&image) {
        true => Ok(image),
        false => Err(Failure::new(
            ErrorKind::NotFound,
            format!("{} is another image by now", recorded.resolved),
        )),
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Failure {
        let kind = match &error {
            LayoutError::Io { source, .. } => kind_of(source),
            LayoutError::NotALayout(_) => ErrorKind::Conflict,
            LayoutError::Layer(LayerError::Tree(_)) => {
                let LayoutError::Layer(LayerError::Tree(error)) = error else {
                    return internal(&error);
                };
                return error.into();
            }
            LayoutError::Layer(LayerError::Write(source)) => kind_of(source),
            LayoutError::Layer(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        };
        Failure::caused(kind, &error)
    }
}
