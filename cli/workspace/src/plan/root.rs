//! What the root file system of a workspace is made from.

use std::path::PathBuf;

use microagent_pipeline::RootfsOptions;

use super::PlanError;
use crate::command::CommandSpec;
use crate::prepare::{DiskPlan, ImagePlan, RootPlan};
use crate::spec::{Entrypoint, Field, Spec};

/// The image if none is given.
const DEFAULT_IMAGE: &str = "docker.io/library/python:3.13-slim";

/// What the root file system is made from: the image, by default, or an existing file system.
///
/// # Errors
/// An invalid reference, or a value that means nothing for an existing file system.
pub(super) fn plan(
    spec: &mut Spec,
    size_mib: Option<u64>,
    mke2fs: Option<PathBuf>,
) -> Result<RootPlan, PlanError> {
    let Some(path) = &spec.rootfs else {
        let image = spec.image.get_or_insert_with(|| DEFAULT_IMAGE.to_owned());
        return Ok(RootPlan::Image(ImagePlan {
            reference: image.parse()?,
            command: command(spec),
            options: RootfsOptions { size_mib, mke2fs },
        }));
    };
    for (what, given) in [
        ("image conflicts with rootfs", spec.image.is_some()),
        ("--mke2fs conflicts with rootfs", mke2fs.is_some()),
        (
            "imageCommand conflicts with rootfs: a file system has no command",
            spec.image_command,
        ),
    ] {
        if given {
            return Err(PlanError::invalid(what)
                .at(Field::new("rootfs"))
                .remediation("use one of them"));
        }
    }
    Ok(RootPlan::Disk(DiskPlan {
        path: path.clone(),
        size_mib,
        argv: (spec.entrypoint.as_ref()).map_or_else(Vec::new, Entrypoint::argv),
    }))
}

fn command(spec: &Spec) -> Option<CommandSpec> {
    match &spec.entrypoint {
        Some(Entrypoint::Shell(line)) => Some(CommandSpec {
            exec: Some(line.clone()),
            ..CommandSpec::default()
        }),
        Some(Entrypoint::Argv(words)) => Some(CommandSpec {
            entrypoint: words.first().cloned(),
            words: words.iter().skip(1).cloned().collect(),
            ..CommandSpec::default()
        }),
        None => spec.image_command.then(CommandSpec::default),
    }
}
