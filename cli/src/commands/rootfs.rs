//! `microagent rootfs build`.

use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store};
use microagent_pipeline::{Rootfs, RootfsOptions};
use serde::Serialize;

use super::pipeline;
use crate::args::RootfsBuildArgs;
use crate::disk_copy;
use crate::document::{ImageDocument, NodeDocument, nodes};
use crate::failure::Failure;
use crate::out_file::OutFile;
use crate::request::reference;
use crate::request::resources::size_mib;
use crate::settings::Settings;
use crate::termination::Termination;

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

/// Builds an image's root file system and copies it to `--out`.
pub fn build(
    args: &RootfsBuildArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let reference = reference(&args.image)?;
    let options = RootfsOptions {
        size_mib: args.size_mib.as_deref().map(size_mib).transpose()?,
        mke2fs: args.mke2fs.clone(),
    };
    if reference.is_mutable() && !args.allow_mutable {
        return Err(mutable(&reference.to_string()));
    }
    let out = match &args.out {
        Some(path) => Some(OutFile::create(path, termination)?),
        None => None,
    };
    let on_stdout = out.as_ref().is_some_and(OutFile::is_stdout);
    if on_stdout && settings.output.json {
        return Err(two_results());
    }
    let pipeline = pipeline::open(settings, termination)?;
    let image = pipeline.resolve(&reference)?;
    let (rootfs, path) = match (out, &args.out) {
        (Some(out), Some(path)) => {
            let rootfs = pipeline.verified_rootfs(&image, &options)?;
            let path = write_out(pipeline.store(), &rootfs, out, path)?;
            (rootfs, path)
        }
        _ => {
            let rootfs = pipeline.rootfs(&image, &options)?;
            let path = rootfs.path.clone();
            (rootfs, path)
        }
    };
    if settings.output.json {
        settings.output.document(&Built {
            image: ImageDocument::new(&image),
            rootfs: RootfsDocument {
                path,
                digest: rootfs.digest,
                size: rootfs.size,
            },
            nodes: nodes(&pipeline),
        })?;
    } else if !on_stdout {
        let shown = args.out.as_ref().unwrap_or(&path).display();
        let line = format!("{shown} {}\n", rootfs.digest);
        settings.output.text(&line)?;
    }
    Ok(0)
}

/// Copies a file system to `out`, unless that is an unmodified earlier copy of it.
fn write_out(
    store: &Store,
    rootfs: &Rootfs,
    out: OutFile,
    path: &Path,
) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_regular = out.is_regular();
    if !is_regular || !store.is_known(&path, &rootfs.digest)? {
        disk_copy::copy(&rootfs.path, out)?;
        if is_regular {
            store.remember_known(&path, &rootfs.digest)?;
        }
    }
    Ok(path)
}

/// The failure of `--json` with an output file that is standard output.
pub fn two_results() -> Failure {
    Failure::usage("--json prints on standard output, and so does the output file")
        .remediation("leave out --json, or write to a file")
}

fn mutable(reference: &str) -> Failure {
    Failure::usage(format!("{reference} is a mutable reference")).remediation(
        "pin it by digest, as in NAME@sha256:… (microagent image resolve prints it), or use \
         --allow-mutable",
    )
}
