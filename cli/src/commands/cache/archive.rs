//! `microagent cache export` and `microagent cache import`.

use std::path::{Path, PathBuf};

use microagent_pipeline::{ErrorKind, Image};
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
    let out = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    let directory = out.parent().unwrap_or(Path::new("/"));
    let temporary = tempfile::Builder::new()
        .prefix(".microagent-")
        .tempfile_in(directory)
        .map_err(|error| cannot_write(&out, &error))?;
    termination.remove_on_exit(temporary.path());
    let image = pipeline.export_image(&reference, temporary.as_file(), &args.out)?;
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let file = temporary.as_file();
    let size = (file.set_permissions(permissions))
        .and_then(|()| file.metadata())
        .map_err(|error| cannot_write(&out, &error))?
        .len();
    let name = temporary.path().to_owned();
    temporary
        .persist(&out)
        .map_err(|error| cannot_write(&out, &error.error))?;
    termination.keep(&name);
    if settings.output.json {
        settings.output.document(&Exported {
            image: ImageDocument::new(&image),
            path: out,
            size,
        })?;
    } else {
        let line = format!("{} {}\n", args.out.display(), image.resolved);
        settings.output.text(&line)?;
    }
    Ok(0)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Host,
    };
    // The error's own text names the temporary file, which means nothing to the user.
    let why = std::io::Error::from(error.kind());
    Failure::new(kind, format!("cannot write {}: {why}", path.display()))
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
