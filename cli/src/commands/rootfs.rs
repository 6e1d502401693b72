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
    let out = (args.out.as_ref())
        .map(|path| pipeline::out_file(path, settings, termination))
        .transpose()?;
    let on_stdout = out.as_ref().is_some_and(OutFile::is_stdout);
    let pipeline = pipeline::open(settings, termination)?;
    let image = pipeline.resolve(&reference)?;
    let mut rootfs = pipeline.rootfs(&image, &options)?;
    let path = match out {
        Some(out) => {
            let path = absolute(out.path());
            let store = pipeline.store();
            // An unmodified earlier copy is kept.
            if !out.is_regular() || !store.is_known(&path, &rootfs.digest)? {
                rootfs = pipeline.verified_rootfs(&image, &options, rootfs)?;
                write_out(store, &rootfs, out, &path)?;
            }
            path
        }
        None => rootfs.path.clone(),
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

/// Copies a file system to `out`, which is at `path`.
fn write_out(store: &Store, rootfs: &Rootfs, out: OutFile, path: &Path) -> Result<(), Failure> {
    let is_regular = out.is_regular();
    disk_copy::copy(&rootfs.path, out)?;
    if is_regular {
        store.remember_known(path, &rootfs.digest)?;
    }
    Ok(())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn mutable(reference: &str) -> Failure {
    Failure::usage(format!("{reference} is a mutable reference")).remediation(
        "pin it by digest, as in NAME@sha256:… (microagent image resolve prints it), or use \
         --allow-mutable",
    )
}
