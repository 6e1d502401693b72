//! `microagent cache export` and `microagent cache import`.

use std::path::PathBuf;

use microagent_pipeline::Image;
use serde::Serialize;

use crate::args::{ExportArgs, ImportArgs};
use crate::commands::pipeline;
use crate::document::ImageDocument;
use crate::failure::Failure;
use crate::request::reference;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    image: ImageDocument,
    path: PathBuf,
    size: u64,
}

/// Writes an image to an archive, atomically.
pub fn export(
    args: &ExportArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let reference = reference(&args.reference)?;
    let pipeline = pipeline::open(settings, termination)?;
    let out = pipeline::out_file(&args.out, settings, termination)?;
    let on_stdout = out.is_stdout();
    let (image, size) = pipeline.export_image(&reference, out.file(), &args.out)?;
    out.commit()?;
    let path = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    if settings.output.json {
        settings.output.document(&Exported {
            image: ImageDocument::new(&image),
            path,
            size,
        })?;
    } else if !on_stdout {
        let line = format!("{} {}\n", args.out.display(), image.resolved);
        settings.output.text(&line)?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct Imported {
    images: Vec<ImageDocument>,
}

/// Imports the images of an archive into the cache.
pub fn import(
    args: &ImportArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let pipeline = pipeline::open(settings, termination)?;
    let images = pipeline.import_images(&args.path)?;
    if settings.output.json {
        let images = images.iter().map(ImageDocument::new).collect();
        settings.output.document(&Imported { images })?;
    } else {
        let line = |image: &Image| format!("{} {}\n", image.reference, image.digest);
        settings
            .output
            .text(&images.iter().map(line).collect::<String>())?;
    }
    Ok(0)
}
