//! What a VM boots: root file system, disks from bundles, kernel, initramfs.
//!
//! Steps that fail fast come first: the given kernel, the bundles, the reference, the command. A
//! missing default kernel is installed by a separate thread while the root is prepared.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use microagent_cas::Digest;
use microagent_pipeline::{
    Bundle, BundleOptions, Error, Image, Initramfs, Kernel, KernelSource, Pipeline, Reference,
    Rootfs, RootfsOptions,
};

use crate::command::{self, CommandSpec};
use crate::disk_image::{DiskImage, DiskImageError};
use crate::spec::Access;

const MIB: u64 = 1 << 20;

/// What is to be booted, apart from its root file system.
#[derive(Debug, Clone)]
pub struct BootPlan {
    /// The kernel; `None` means the default one, which is installed if there is none.
    pub kernel: Option<PathBuf>,
    /// The disks to build from tar archives.
    pub bundles: Vec<BundleOptions>,
    /// The guest agent's program.
    pub agent: PathBuf,
}

/// An image whose root file system is to be booted.
#[derive(Debug, Clone)]
pub struct ImagePlan {
    /// The image.
    pub reference: Reference,
    /// What to run in it; `None` for a VM that idles.
    pub command: Option<CommandSpec>,
    /// How its root file system is made.
    pub options: RootfsOptions,
}

/// An existing file system that is to be booted.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    /// The image of the file system. It is copied.
    pub path: PathBuf,
    /// The size of the disk, at least that of the file.
    pub size_mib: Option<u64>,
    /// What to run in it; empty for a VM that idles.
    pub argv: Vec<String>,
}

/// What the root of a workspace is made from.
#[derive(Debug, Clone)]
pub enum RootPlan {
    /// An image.
    Image(ImagePlan),
    /// A file system.
    Disk(DiskPlan),
}

/// The root of a workspace.
#[derive(Debug)]
pub struct Root {
    /// The image, if it was made from one.
    pub image: Option<Image>,
    /// The command and its arguments; empty if none was requested.
    pub argv: Vec<String>,
    /// The root file system: the digest of its chunk map ([`microagent_cas::ChunkMap`]).
    pub rootfs: Digest,
}

/// An image with its root file system.
#[derive(Debug)]
pub struct ImageRoot {
    /// The image.
    pub image: Image,
    /// The command and its arguments; empty if none was requested.
    pub argv: Vec<String>,
    /// Its root file system.
    pub rootfs: Rootfs,
}

/// Everything that a VM boots. `R` is its root.
#[derive(Debug)]
pub struct Prepared<R> {
    /// The root file system.
    pub root: R,
    /// The disks built from bundles, in the order of the plan.
    pub bundles: Vec<Bundle>,
    /// The kernel.
    pub kernel: Kernel,
    /// The initramfs with the guest agent and the kernel's modules.
    pub initramfs: Initramfs,
    /// How long it took.
    pub times: Times,
}

/// How long each step took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Resolving the reference.
    pub resolve: Option<Duration>,
    /// Fetching and unpacking layers, and writing the root file system.
    pub rootfs: Option<Duration>,
    /// Building disks from bundles.
    pub bundles: Option<Duration>,
    /// Finding or installing the kernel.
    pub kernel: Option<Duration>,
    /// Building the initramfs.
    pub initramfs: Option<Duration>,
}

/// Why nothing can be booted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A node of the pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] Error),
    /// Neither the request nor the image says what to run.
    #[error("image {0} has no default command")]
    NoCommand(String),
    /// The root file system of the user cannot be used.
    #[error("the root file system {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: DiskImageError,
    },
    /// It is larger than the disk is to be.
    #[error(
        "--size-mib {size_mib} is below the size of the root file system {}, {minimum} MiB",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// The requested size.
        size_mib: u64,
        /// Its size.
        minimum: u64,
    },
    /// The thread that installs a kernel cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// It panicked.
    #[error("the kernel installation thread panicked")]
    Panicked,
}

/// Why nothing can be booted, and whether something is still done about it.
#[derive(Debug)]
pub struct PrepareFailure {
    /// The error.
    pub error: Box<PrepareError>,
    /// A thread still installs a kernel: the process should remove what that has not completed when
    /// it ends.
    pub installing: bool,
}

impl<E: Into<PrepareError>> From<E> for PrepareFailure {
    fn from(error: E) -> PrepareFailure {
        PrepareFailure {
            error: Box::new(error.into()),
            installing: false,
        }
    }
}

/// Finds or builds everything: the root is what `root` makes, within `times`. Calls `install` before
/// a kernel is installed.
///
/// # Errors
/// [`PrepareFailure`].
pub fn prepare<R>(
    pipeline: &Pipeline,
    plan: &BootPlan,
    install: impl FnOnce(),
    root: impl FnOnce(&mut Times) -> Result<R, PrepareError>,
) -> Result<Prepared<R>, PrepareFailure> {
    let mut times = Times::default();
    let kernel = find_or_install_kernel(pipeline, plan.kernel.as_deref(), install, &mut times)?;
    let made = prepare_bundles(pipeline, &plan.bundles, &mut times)
        .and_then(|bundles| Ok((bundles, root(&mut times)?)));
    let (bundles, root) = made.map_err(|error: PrepareError| PrepareFailure {
        error: Box::new(error),
        installing: matches!(kernel, KernelLookup::Installing(_)),
    })?;
    let kernel = match kernel {
        KernelLookup::Found(kernel) => *kernel,
        KernelLookup::Installing(thread) => {
            let (kernel, took) = thread.join().map_err(|_| PrepareError::Panicked)??;
            times.kernel = Some(took);
            kernel
        }
    };
    let initramfs = timed(&mut times.initramfs, || {
        pipeline.initramfs(&plan.agent, &kernel)
    })?;
    Ok(Prepared {
        root,
        bundles,
        kernel,
        initramfs,
        times,
    })
}

/// The root of a workspace, in the store.
///
/// # Errors
/// [`PrepareError`].
pub fn root(pipeline: &Pipeline, plan: &RootPlan, times: &mut Times) -> Result<Root, PrepareError> {
    match plan {
        RootPlan::Image(plan) => {
            let made = image_root(pipeline, plan, times)?;
            Ok(Root {
                image: Some(made.image),
                argv: made.argv,
                rootfs: made.rootfs.digest,
            })
        }
        RootPlan::Disk(plan) => {
            let disk = check_disk(plan)?;
            let size = plan.size_mib.unwrap_or_default().saturating_mul(MIB);
            let imported = timed(&mut times.rootfs, || disk.import(pipeline.store(), size));
            Ok(Root {
                image: None,
                argv: plan.argv.clone(),
                rootfs: imported.map_err(failed(&plan.path))?,
            })
        }
    }
}

/// Checks an existing file system, as far as its superblock shows.
///
/// # Errors
/// [`PrepareError`].
pub fn check_disk(plan: &DiskPlan) -> Result<DiskImage, PrepareError> {
    let failed = failed(&plan.path);
    let disk = DiskImage::open(&plan.path, Access::Ro).map_err(&failed)?;
    if !disk.is_file() {
        return Err(failed(DiskImageError::NotAFile { directory: false }));
    }
    if disk.is_unclean() {
        return Err(failed(DiskImageError::Unclean));
    }
    disk.check_size().map_err(&failed)?;
    let minimum = disk.size().div_ceil(MIB);
    match plan.size_mib {
        Some(size_mib) if size_mib < minimum => Err(PrepareError::Size {
            path: plan.path.clone(),
            size_mib,
            minimum,
        }),
        _ => Ok(disk),
    }
}

fn failed(path: &Path) -> impl Fn(DiskImageError) -> PrepareError {
    let path = path.to_owned();
    move |source| PrepareError::Disk {
        path: path.clone(),
        source,
    }
}

/// The root file system of an image.
///
/// # Errors
/// [`PrepareError`].
pub fn image_root(
    pipeline: &Pipeline,
    plan: &ImagePlan,
    times: &mut Times,
) -> Result<ImageRoot, PrepareError> {
    let image = timed(&mut times.resolve, || pipeline.resolve(&plan.reference))?;
    let config = &image.config;
    let argv = match &plan.command {
        Some(command) => command::argv(command, &config.entrypoint, &config.cmd),
        None => Vec::new(),
    };
    if plan.command.is_some() && argv.is_empty() {
        return Err(PrepareError::NoCommand(image.reference));
    }
    let rootfs = timed(&mut times.rootfs, || pipeline.rootfs(&image, &plan.options))?;
    Ok(ImageRoot {
        image,
        argv,
        rootfs,
    })
}

/// The kernel `path`, or the default kernel; `None` if no default kernel is installed.
///
/// # Errors
/// Those of the pipeline.
pub fn installed_kernel(pipeline: &Pipeline, path: Option<&Path>) -> Result<Option<Kernel>, Error> {
    match path {
        Some(path) => pipeline
            .kernel(&KernelSource::Path(path.to_owned()))
            .map(Some),
        None => pipeline.default_kernel(),
    }
}

fn prepare_bundles(
    pipeline: &Pipeline,
    bundles: &[BundleOptions],
    times: &mut Times,
) -> Result<Vec<Bundle>, PrepareError> {
    if bundles.is_empty() {
        return Ok(Vec::new());
    }
    let build = || bundles.iter().map(|bundle| pipeline.bundle(bundle));
    let built: Result<_, _> = timed(&mut times.bundles, || build().collect());
    Ok(built?)
}

/// The kernel of a run.
enum KernelLookup {
    /// It is in the store.
    Found(Box<Kernel>),
    /// The thread returns the kernel and how long it took.
    Installing(JoinHandle<Result<(Kernel, Duration), Error>>),
}

fn find_or_install_kernel(
    pipeline: &Pipeline,
    path: Option<&Path>,
    install: impl FnOnce(),
    times: &mut Times,
) -> Result<KernelLookup, PrepareError> {
    let found = timed(&mut times.kernel, || installed_kernel(pipeline, path))?;
    if let Some(kernel) = found {
        return Ok(KernelLookup::Found(Box::new(kernel)));
    }
    install();
    let pipeline = pipeline.clone();
    let thread = thread::Builder::new()
        .name("kernel".into())
        .spawn(move || {
            let begun = Instant::now();
            let kernel = pipeline.kernel(&KernelSource::Distribution)?;
            pipeline.set_default_kernel(&kernel)?;
            Ok((kernel, begun.elapsed()))
        })
        .map_err(PrepareError::Thread)?;
    Ok(KernelLookup::Installing(thread))
}

/// Runs `work` and stores its duration in `time`, even if it fails.
fn timed<T>(time: &mut Option<Duration>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    *time = Some(begun.elapsed());
    result
}
