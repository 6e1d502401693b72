//! What a VM boots: image, root file system, disks from bundles, kernel, initramfs.
//!
//! What fails fast is asked first: the kernel that was named, the bundles, the reference, what to
//! run. A default kernel that is missing is installed by a thread of its own beside the image.

use std::path::Path;
use std::thread::{self, JoinHandle};

use microagent_pipeline::{
    Bundle, ErrorKind, Image, Initramfs, Kernel, KernelSource, Pipeline, Rootfs, RootfsOptions,
};

use super::disks;
use super::phases::{Phases, timed};
use crate::failure::{EXIT_RUN_FAILED, Failure};
use crate::output::Output;
use crate::request::command;
use crate::request::{DiskRequest, DiskSource, RunRequest};
use crate::termination::Termination;

/// All that is needed to boot.
#[derive(Debug)]
pub struct Artifacts {
    /// The image.
    pub image: Image,
    /// What to run in it; never empty.
    pub argv: Vec<String>,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// The disks made from bundles, in the order of the request.
    pub bundles: Vec<Bundle>,
    /// The kernel.
    pub kernel: Kernel,
    /// The agent and the kernel's modules.
    pub initramfs: Initramfs,
}

/// Finds or makes all of them.
pub fn prepare(
    pipeline: &Pipeline,
    request: &RunRequest,
    agent: &Path,
    output: Output,
    phases: &mut Phases,
    termination: &Termination,
) -> Result<Artifacts, Failure> {
    let kernel = find_or_install_kernel(pipeline, request.kernel.as_deref(), output, phases)?;
    let prepared = prepare_bundles(pipeline, request, phases)
        .and_then(|bundles| Ok((bundles, prepare_image(pipeline, request, phases)?)));
    let (bundles, (image, argv, rootfs)) = match (prepared, &kernel) {
        (Ok(prepared), _) => prepared,
        (Err(failure), KernelLookup::Found(_)) => return Err(failure),
        // The installation is under way in its thread; it ends like an interrupted one.
        (Err(failure), KernelLookup::Installing(_)) => {
            termination.terminate(failure.exit_code(EXIT_RUN_FAILED), &failure)
        }
    };
    let kernel = match kernel {
        KernelLookup::Found(kernel) => kernel,
        KernelLookup::Installing(thread) => {
            let (kernel, took) = thread.join().map_err(|_| install_thread_panicked())??;
            phases.kernel = Some(took);
            kernel
        }
    };
    let initramfs = timed(&mut phases.initramfs, || pipeline.initramfs(agent, &kernel))?;
    Ok(Artifacts {
        image,
        argv,
        rootfs,
        bundles,
        kernel,
        initramfs,
    })
}

fn prepare_bundles(
    pipeline: &Pipeline,
    request: &RunRequest,
    phases: &mut Phases,
) -> Result<Vec<Bundle>, Failure> {
    let is_bundle = |disk: &DiskRequest| matches!(disk.source, DiskSource::Bundle(_));
    match request.disks.iter().any(is_bundle) {
        true => timed(&mut phases.bundles, || {
            disks::build(pipeline, &request.disks)
        }),
        false => Ok(Vec::new()),
    }
}

fn prepare_image(
    pipeline: &Pipeline,
    request: &RunRequest,
    phases: &mut Phases,
) -> Result<(Image, Vec<String>, Rootfs), Failure> {
    let image = timed(&mut phases.resolve, || pipeline.resolve(&request.reference))?;
    let argv = command::argv(
        &request.command,
        &image.config.entrypoint,
        &image.config.cmd,
        &image.reference,
    )?;
    let options = RootfsOptions {
        size_mib: request.resources.size_mib,
        mke2fs: request.mke2fs.clone(),
    };
    let rootfs = timed(&mut phases.rootfs, || pipeline.rootfs(&image, &options))?;
    Ok((image, argv, rootfs))
}

/// The kernel that was named, or else the default one; `None` when there is none yet.
pub fn installed_kernel(
    pipeline: &Pipeline,
    named: Option<&Path>,
) -> Result<Option<Kernel>, microagent_pipeline::Error> {
    match named {
        Some(path) => pipeline
            .kernel(&KernelSource::Path(path.to_owned()))
            .map(Some),
        None => pipeline.default_kernel(),
    }
}

enum KernelLookup {
    Found(Kernel),
    /// The kernel, and how many milliseconds it took.
    Installing(JoinHandle<Result<(Kernel, f64), Failure>>),
}

fn find_or_install_kernel(
    pipeline: &Pipeline,
    named: Option<&Path>,
    output: Output,
    phases: &mut Phases,
) -> Result<KernelLookup, Failure> {
    let found = timed(&mut phases.kernel, || installed_kernel(pipeline, named))?;
    if let Some(kernel) = found {
        return Ok(KernelLookup::Found(kernel));
    }
    output.notice("no kernel is installed; installing the distribution's");
    let pipeline = pipeline.clone();
    let thread = thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let mut took = None;
            let kernel = timed(&mut took, || {
                let kernel = pipeline.kernel(&KernelSource::Distribution)?;
                pipeline.set_default_kernel(&kernel)?;
                Ok::<_, microagent_pipeline::Error>(kernel)
            })?;
            Ok((kernel, took.unwrap_or_default()))
        })
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    Ok(KernelLookup::Installing(thread))
}

fn install_thread_panicked() -> Failure {
    Failure::new(
        ErrorKind::Internal,
        "the installation of the kernel broke off",
    )
}
