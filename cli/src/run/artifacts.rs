//! What a VM boots: image, root file system, disks from bundles, kernel, initramfs.
//!
//! Steps that fail fast come first: the given kernel, the bundles, the reference, the command. A
//! missing default kernel is installed by a separate thread while the image is prepared.

use std::path::Path;
use std::thread::{self, JoinHandle};

use microagent_pipeline::{
    Bundle, ErrorKind, Image, Initramfs, Kernel, KernelSource, Pipeline, Rootfs, RootfsOptions,
};
use microagent_vmm::boot::minimum_memory_mib;

use super::disks;
use super::phases::{Phases, timed};
use crate::failure::{EXIT_RUN_FAILED, Failure};
use crate::output::Output;
use crate::request::command;
use crate::request::{DiskRequest, DiskSource, RunRequest};
use crate::termination::Termination;

/// Everything a VM boots.
#[derive(Debug)]
pub struct Artifacts {
    /// The image.
    pub image: Image,
    /// The command and its arguments; empty if none was requested.
    pub argv: Vec<String>,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// The disks built from bundles, in the order of the request.
    pub bundles: Vec<Bundle>,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs with the guest agent and the kernel's modules.
    pub initramfs: Initramfs,
}

/// Finds or builds all artifacts.
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
        // The kernel thread is still installing; terminate as for an interrupt.
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

/// Refuses a VM in which the kernel could not start the command.
///
/// # Errors
/// A usage error that names the minimum.
pub fn check_memory(
    kernel: &Path,
    initramfs: &Path,
    memory_mib: u64,
    cpu_count: u32,
) -> Result<(), Failure> {
    let minimum = minimum_memory_mib(kernel, initramfs, cpu_count).map_err(|error| {
        Failure::caused(ErrorKind::Host, &error).maybe_remediation(error.remediation())
    })?;
    if memory_mib >= minimum {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--memory {memory_mib} is below the minimum of {minimum} MiB for this kernel"
    ))
    .remediation(format!("use --memory {minimum} or more")))
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
    let config = &image.config;
    let argv = match &request.command {
        Some(spec) => command::argv(spec, &config.entrypoint, &config.cmd, &image.reference)?,
        None => Vec::new(),
    };
    let options = RootfsOptions {
        size_mib: request.resources.size_mib,
        mke2fs: request.mke2fs.clone(),
    };
    let rootfs = timed(&mut phases.rootfs, || {
        let found = pipeline.rootfs(&image, &options)?;
        match request.keep {
            // The copy that is kept outlives the store.
            true => pipeline.verified_rootfs(&image, &options, found),
            false => Ok(found),
        }
    })?;
    Ok((image, argv, rootfs))
}

/// The kernel `path`, or the default kernel; `None` if no default kernel is installed.
pub fn installed_kernel(
    pipeline: &Pipeline,
    path: Option<&Path>,
) -> Result<Option<Kernel>, microagent_pipeline::Error> {
    match path {
        Some(path) => pipeline
            .kernel(&KernelSource::Path(path.to_owned()))
            .map(Some),
        None => pipeline.default_kernel(),
    }
}

/// The kernel of a run.
enum KernelLookup {
    /// It is in the store.
    Found(Kernel),
    /// The thread returns the kernel and the duration in milliseconds.
    Installing(JoinHandle<Result<(Kernel, f64), Failure>>),
}

fn find_or_install_kernel(
    pipeline: &Pipeline,
    path: Option<&Path>,
    output: Output,
    phases: &mut Phases,
) -> Result<KernelLookup, Failure> {
    let found = timed(&mut phases.kernel, || installed_kernel(pipeline, path))?;
    if let Some(kernel) = found {
        return Ok(KernelLookup::Found(kernel));
    }
    output.notice("no kernel is installed; installing the distribution's kernel");
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
        "the kernel installation thread panicked",
    )
}
