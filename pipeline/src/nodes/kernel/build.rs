//! The `kernelBuild` node: the guest kernel, built from source.
//!
//! Inputs are the source (a `.deb` or a tar) and the configuration fragment (its options in order,
//! without comments); parameters are the first lines of the version output of compiler and linker.
//! Outputs are the image (`kernel`), its `description`, and the complete configuration it was built
//! with (`config`). The build runs in a controlled environment (see `kernel::build::make`), so the
//! same key yields the same bytes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use microagent_cas::{Digest, ScratchDir, Store, StoreError};

use crate::engine::Engine;
use crate::engine::node::{NodeOutcome, NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage};
use crate::kernel::apt::{Apt, Candidate};
use crate::kernel::build::error::{KernelBuildError, KernelBuildFailure, file};
use crate::kernel::build::fragment::Fragment;
use crate::kernel::build::make::Build;
use crate::kernel::build::{SOURCE_PACKAGE, configure, padding, source, toolchain};
use crate::kernel::ingest::{self, CheckedImage};
use crate::kernel::tool::Tool;
use crate::kernel::{Kernel, MAX_KERNEL, local_copy};
use crate::nodes::local_file;

/// The operation's name.
const OP: &str = "kernelBuild";

/// Must be incremented when the same inputs could yield different outputs.
const OP_VERSION: u32 = 2;

/// How to build a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBuild {
    /// A `.deb` or a tar with a kernel's source; if `None`, the distribution's package.
    pub source: Option<PathBuf>,
    /// A configuration fragment that overrides options of the built-in one.
    pub config: Option<PathBuf>,
    /// The number of parallel compiler processes.
    pub jobs: usize,
    /// The file for the complete output of the build.
    pub log: PathBuf,
}

/// A kernel that was built or found in the store.
#[derive(Debug)]
pub struct BuiltKernel {
    /// The kernel.
    pub kernel: Kernel,
    /// The node.
    pub node: NodeOutcome,
    /// How long the request took, in milliseconds.
    pub millis: f64,
}

/// The origin of the source.
enum Origin<'a> {
    Path(&'a Path),
    Apt(Apt, Candidate),
}

/// Builds the guest kernel, or finds it in the store.
///
/// # Errors
/// [`KernelBuildError`]; `KernelError` if the distribution's package cannot be downloaded; and
/// those of the store.
pub(crate) fn build_kernel(
    engine: &Engine,
    build: &KernelBuild,
) -> Result<BuiltKernel, KernelBuildFailure> {
    let started = Instant::now();
    let fragment = Fragment::with_file(build.config.as_deref())?;
    let [compiler, linker] = toolchain::identity()?;
    let (origin, digest, name) = match &build.source {
        Some(path) => {
            let (digest, name) = local_source(engine.store(), path)?;
            (Origin::Path(path), digest, name)
        }
        None => {
            let (apt, package) = source_package(engine)?;
            let name = format!("{} {}", package.name, package.version);
            let digest = package.digest;
            (Origin::Apt(apt, package), digest, name)
        }
    };
    let text = fragment.text();
    let spec = NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({ "compiler": compiler, "linker": linker }),
        inputs: vec![
            ("source".to_owned(), digest),
            ("fragment".to_owned(), Digest::of(text.as_bytes())),
        ],
        platform: Some("linux/amd64".to_owned()),
    };
    let node = engine.node(spec, || {
        toolchain::check()?;
        compile(engine, build, &origin, digest, &name, &fragment)
    })?;
    if let Origin::Path(path) = origin {
        local_file::record(engine, path, &digest)?;
    }
    let digest = node.output("kernel")?.digest();
    let description = node.output("description")?.digest();
    let kernel = Kernel {
        digest,
        path: engine.store().blob_path(&digest),
        modules: None,
        modules_disk: None,
        version: ingest::describe(engine.store(), &description)?.version,
        source: name,
    };
    let millis = started.elapsed().as_secs_f64() * 1000.0;
    Ok(BuiltKernel {
        kernel,
        node,
        millis,
    })
}

fn local_source(store: &Store, path: &Path) -> Result<(Digest, String), KernelBuildFailure> {
    let name = path.display().to_string();
    let metadata = fs::metadata(path).map_err(file("read", path))?;
    let why = match metadata.len() {
        _ if !metadata.is_file() => "it is not a regular file",
        0 => "it is empty",
        size if size > MAX_KERNEL => "it exceeds the size limit of a kernel source",
        _ => return Ok((store.digest_known(path)?.0, name)),
    };
    let why = why.to_owned();
    Err(KernelBuildError::BadSource { name, why }.into())
}

/// The distribution's source package, from the host's package lists or else from updated ones.
fn source_package(engine: &Engine) -> Result<(Apt, Candidate), KernelBuildFailure> {
    let host = Apt::host();
    if let Some(package) = host.package(SOURCE_PACKAGE)? {
        return Ok((host, package));
    }
    engine.emit(Event::Notice(
        "downloading the distribution's package lists".to_owned(),
    ));
    let private = Apt::updated(engine.store())?;
    let package = private.package(SOURCE_PACKAGE)?;
    let package = package.ok_or(KernelBuildError::NoSourcePackage {
        package: SOURCE_PACKAGE,
    })?;
    Ok((private, package))
}

fn compile(
    engine: &Engine,
    build: &KernelBuild,
    origin: &Origin<'_>,
    digest: Digest,
    name: &str,
    fragment: &Fragment,
) -> Result<Outputs, KernelBuildFailure> {
    let dir = engine.store().scratch_dir()?;
    let source = match origin {
        Origin::Path(path) => {
            let copy = local_copy::copy(engine.store(), path, &digest, MAX_KERNEL)?;
            let source = copy.file().try_clone();
            source.map_err(|error| StoreError::io("read", copy.path(), error))?
        }
        Origin::Apt(apt, package) => {
            let download = |_: &dyn Fn(u64)| apt.download(package, dir.path());
            engine
                .stage(Stage::Kernel, &package.name, Some(package.size), download)?
                .file
        }
    };
    let size = source.metadata().ok().map(|metadata| metadata.len());
    let tree = engine.stage(Stage::Kernel, "source", size, |advance| {
        source::unpack(name, source, dir.path(), advance)
    })?;
    let mut make = Build::new(&tree, build.jobs.max(1), &build.log)?;
    let config = configure(&tree, &mut make, fragment)?;
    engine.stage(Stage::Kernel, "compile", None, |advance| {
        make.make("vmlinux", &[], advance)
    })?;
    finish(engine.store(), &tree, &config, dir)
}

/// Stores the image, without padding and debugging symbols, and its configuration.
fn finish(
    store: &Store,
    tree: &Path,
    config: &str,
    dir: ScratchDir,
) -> Result<Outputs, KernelBuildFailure> {
    let stripped = dir.path().join("vmlinux");
    Tool::new("strip", &["--strip-all"])
        .args([Path::new("-o"), &stripped, &tree.join("vmlinux")])
        .output()?;
    let image = fs::read(&stripped).map_err(file("read", &stripped))?;
    let image = padding::without_padding(&image).unwrap_or(image);
    let scratch = store.scratch()?;
    let written = scratch.file().write_all_at(&image, 0);
    written.map_err(|error| StoreError::io("write to", scratch.path(), error))?;
    let image = CheckedImage::new(store, "vmlinux", scratch)?;
    image.require_drivers("vmlinux")?;
    let mut outputs = image.store(store, false)?;
    let config = store.put_bytes(config.as_bytes())?;
    outputs.insert("config".to_owned(), config.into());
    Ok(outputs)
}
