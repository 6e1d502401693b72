//! `microagent commit`.

use std::fs;
use std::path::Path;

use microagent_cas::Digest;
use microagent_pipeline::{
    ErrorKind, Image, Pipeline, Reference, RegistryReference, Selector, Upstream,
};
use microagent_workspace::event::now;
use microagent_workspace::image_layout::{LayoutError, NewImage, add_image};
use microagent_workspace::layer::{LayerError, write_layer};
use microagent_workspace::root_fs::everything;
use microagent_workspace::spec::RecordedImage;
use microagent_workspace::start;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use super::create::internal;
use super::diff::{compare, is_written_at_start};
use crate::args::CommitArgs;
use crate::commands::pipeline;
use crate::failure::{Failure, kind_of};
use crate::request::reference;
use crate::settings::{Settings, make_private_dir};
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
    let target = Target::of(&to, args.push)?;
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let compared = compare(&args.name, settings, store, termination)?;
    let recorded = start::recorded(&compared.spec)?;
    let base = (recorded.image.as_ref())
        .map(|image| base_image(&pipeline, image))
        .transpose()?;
    let changed = match &base {
        Some(base) => {
            pipeline.fetch_layers(base)?;
            compared.changed
        }
        None => everything(&compared.workspace, &is_written_at_start)?,
    };
    let mut sockets = 0;
    let created = now();
    let mut add = |directory: &Path, tag: &str, with_base: bool| {
        let image = NewImage {
            base: base.as_ref(),
            with_base,
            tag,
            created: &created,
            created_by: &format!("microagent commit {}", args.name),
        };
        add_image(store, directory, &image, |out| {
            sockets = write_layer(&compared.workspace, &changed, out)?;
            Ok(())
        })
    };
    let digest = match target {
        Target::Layout(directory, tag) => add(directory, tag, true)?,
        Target::Registry(to) => {
            let scratch = scratch(settings)?;
            termination.remove_on_exit(scratch.path());
            let digest = add(scratch.path(), "latest", false)?;
            push(&pipeline, to, scratch.path(), &digest)?;
            digest
        }
    };
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

/// Where the image goes.
enum Target<'a> {
    /// A layout, under this tag.
    Layout(&'a Path, &'a str),
    Registry(&'a RegistryReference),
}

impl Target<'_> {
    fn of(to: &Reference, push: bool) -> Result<Target<'_>, Failure> {
        match to {
            Reference::OciLayout {
                path,
                select: Selector::Name(tag),
            } if !push => Ok(Target::Layout(path, tag)),
            Reference::Registry(to) if push && to.digest.is_none() => Ok(Target::Registry(to)),
            _ => {
                let message = match push {
                    true => format!("cannot push to {to}"),
                    false => format!("{to} is not an image of an OCI layout"),
                };
                let form = "use oci:DIR:TAG, or an image of a registry with --push";
                Err(Failure::usage(message).remediation(form))
            }
        }
    }
}

/// A directory for what is pushed, which is removed when it is dropped.
fn scratch(settings: &Settings) -> Result<TempDir, Failure> {
    let parent = settings.host_dir();
    let failed = |error: std::io::Error| {
        let message = format!("cannot create a directory in {}: {error}", parent.display());
        Failure::new(kind_of(&error), message)
    };
    make_private_dir(&parent).map_err(failed)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix("push-").tempdir_in(&parent).map_err(failed)
}

/// Pushes the image in the layout `directory`; the layers of its base are in the store.
fn push(
    pipeline: &Pipeline,
    to: &RegistryReference,
    directory: &Path,
    digest: &Digest,
) -> Result<(), Failure> {
    let path = |digest: &Digest| directory.join("blobs/sha256").join(digest.hex());
    let manifest = fs::read(path(digest)).map_err(|error| internal(&error))?;
    let document: Value = serde_json::from_slice(&manifest).map_err(|error| internal(&error))?;
    let layers = document["layers"].as_array().into_iter().flatten();
    let mut blobs = Vec::new();
    for descriptor in layers.chain([&document["config"]]) {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let digest: Digest = digest.parse().map_err(|error| internal(&error))?;
        let new = path(&digest);
        let file = if new.exists() {
            new
        } else {
            pipeline.store().blob_path(&digest)
        };
        blobs.push((digest, file));
    }
    Ok(pipeline.push(
        to,
        &Upstream {
            blobs: &blobs,
            manifest: &manifest,
        },
    )?)
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
        let kind = match error {
            // It may have been damaged, or the disk cannot be read.
            LayoutError::Store(error) => return error.into(),
            LayoutError::Layer(LayerError::Tree(error)) => return error.into(),
            LayoutError::Io { ref source, .. }
            | LayoutError::Layer(LayerError::Write(ref source)) => kind_of(source),
            LayoutError::NotALayout(_) => ErrorKind::Conflict,
            LayoutError::Layer(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        };
        Failure::caused(kind, &error)
    }
}
