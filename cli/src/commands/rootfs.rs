//! `microagent rootfs build`.

use std::path::PathBuf;

use microagent_cas::Digest;
use microagent_pipeline::RootfsOptions;
use serde::Serialize;

use super::open_pipeline;
use crate::args::RootfsBuildArgs;
use crate::disk;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::output::Output;
use crate::request::reference;
use crate::resources::size_mib;
use crate::run::document::{ImageDocument, NodeDocument, nodes};
use crate::settings::Settings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built {
    image: ImageDocument,
    rootfs: RootfsDocument,
    nodes: Vec<NodeDocument>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RootfsDocument {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// Builds an image's root file system and copies it to where it was asked for.
pub fn build(args: &RootfsBuildArgs, settings: &Settings, ending: &Ending) -> Result<u8, Failure> {
    let reference = reference(&args.image)?;
    let options = RootfsOptions {
        size_mib: args.size_mib.as_deref().map(size_mib).transpose()?,
        mke2fs: args.mke2fs.clone(),
    };
    if reference.is_mutable() && !args.allow_mutable {
        return Err(mutable(&reference.to_string()));
    }
    let pipeline = open_pipeline(settings, ending)?;
    let image = pipeline.resolve(&reference)?;
    let rootfs = pipeline.rootfs(&image, &options)?;
    disk::copy(&rootfs.path, &args.out)?;
    if settings.output.json {
        settings.output.document(&Built {
            image: ImageDocument::new(&image),
            rootfs: RootfsDocument {
                path: std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone()),
                digest: rootfs.digest,
                size: rootfs.size,
            },
            nodes: nodes(&pipeline),
        })?;
    } else {
        print(&settings.output, args, &rootfs.digest)?;
    }
    Ok(0)
}

fn print(output: &Output, args: &RootfsBuildArgs, digest: &Digest) -> Result<(), Failure> {
    output.text(&format!("{} {digest}\n", args.out.display()))
}

fn mutable(reference: &str) -> Failure {
    Failure::usage(format!("{reference} can mean another image tomorrow")).way_out(
        "pin it by digest, as in NAME@sha256:… (microagent --json run prints it as \
         image.resolved), or add --allow-mutable",
    )
}
