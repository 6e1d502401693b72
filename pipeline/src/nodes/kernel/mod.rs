//! The `kernel`, `kernelModules` and `kernelPackages` nodes.
//!
//! The inputs of the node `kernel` are its files (one image, or the packages sorted by name). Its
//! outputs are the image (`kernel`), the modules that a microVM requires as a tar in load order
//! (`modules`, if there are any) and a description of the image (`description`). A package yields
//! the same node whether it is from apt, a path or a URL. If there are modules, the node
//! `kernelModules` ([`modules_disk`]) has the same inputs. The node `kernelPackages` records the
//! distribution's packages; it is never a cache hit.

pub(crate) mod build;
mod modules_disk;

use std::fs;
use std::path::Path;

use microagent_cas::{Digest, Output, Scratch, StoreError};

use crate::engine::Engine;
use crate::engine::node::{NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage};
use crate::kernel::apt::{Apt, Candidate};
use crate::kernel::download::{self, Address};
use crate::kernel::error::{KernelError, KernelFailure};
use crate::kernel::ingest::{self, CheckedImage, Files};
use crate::kernel::package::Unpacked;
use crate::kernel::{Kernel, KernelSource, MAX_KERNEL, local_copy, module};
use crate::nodes::local_file;

/// Must be incremented when the same files could yield different outputs.
const OP_VERSION: u32 = 3;

/// Stores a kernel, or finds it in the store.
///
/// # Errors
/// [`KernelError`] and those of the store.
pub(crate) fn kernel(engine: &Engine, source: &KernelSource) -> Result<Kernel, KernelFailure> {
    match source {
        KernelSource::Path(path) => from_path(engine, path),
        KernelSource::Url { url, sha256 } => {
            let address = Address::parse(url)?;
            kernel_node(engine, &[*sha256], address.url.clone(), || {
                Files::of(
                    address.url.clone(),
                    download::download(engine, &address, sha256)?,
                )
            })
        }
        KernelSource::Distribution => from_distribution(engine),
    }
}

fn from_path(engine: &Engine, path: &Path) -> Result<Kernel, KernelFailure> {
    let unreadable = |source| KernelError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let name = path.display().to_string();
    // Checked before the file is opened, which would block on a FIFO.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let why = match metadata.len() {
        _ if metadata.is_dir() => "it is a directory",
        _ if !metadata.is_file() => "it is not a regular file",
        0 => "it is empty",
        size if size > MAX_KERNEL => {
            return Err(KernelError::TooLarge {
                name,
                limit: MAX_KERNEL,
            }
            .into());
        }
        _ => "",
    };
    if !why.is_empty() {
        return Err(KernelError::NotAKernel {
            name,
            why: why.to_owned(),
        }
        .into());
    }
    let store = engine.store();
    let (digest, _) = store.digest_known(path)?;
    let kernel = kernel_node(engine, &[digest], name.clone(), || {
        Files::of(name, local_copy::copy(store, path, &digest, MAX_KERNEL)?)
    })?;
    local_file::record(engine, path, &digest)?;
    Ok(kernel)
}

fn from_distribution(engine: &Engine) -> Result<Kernel, KernelFailure> {
    let host = Apt::host();
    let from_host = host
        .kernel_packages()
        .map_err(KernelFailure::from)
        .and_then(|packages| from_apt(engine, &host, packages));
    match from_host {
        // There are no lists, or they name packages that the mirrors no longer have.
        Err(KernelFailure::Kernel(
            error @ (KernelError::NoKernelPackage { .. }
            | KernelError::BadPackage { .. }
            | KernelError::Program { .. }),
        )) => {
            tracing::debug!(%error, "the host's package lists are not usable");
            engine.emit(Event::Notice(
                "downloading the distribution's package lists".to_owned(),
            ));
            let (private, packages) = Apt::private(engine.store())?;
            from_apt(engine, &private, packages)
        }
        other => other,
    }
}

fn from_apt(engine: &Engine, apt: &Apt, packages: Vec<Candidate>) -> Result<Kernel, KernelFailure> {
    let source = packages
        .iter()
        .map(|package| format!("{} {}", package.name, package.version))
        .collect::<Vec<_>>()
        .join(", ");
    engine.observe(packages_node(&packages), || {
        Ok::<_, StoreError>(Outputs::new())
    })?;
    let digests: Vec<_> = packages.iter().map(|package| package.digest).collect();
    kernel_node(engine, &digests, source.clone(), || {
        engine.emit(Event::Notice(format!(
            "installing the default kernel: {source}"
        )));
        let dir = engine.store().scratch_dir()?;
        let mut files = Vec::new();
        for package in &packages {
            let size = Some(package.size);
            files.push(engine.stage(Stage::Kernel, &package.name, size, |_| {
                apt.download(package, dir.path())
            })?);
        }
        Ok(Files::Packages(files))
    })
}

/// Computes or finds the node `kernel`; `obtain` is called only in the former case.
fn kernel_node(
    engine: &Engine,
    inputs: &[Digest],
    source: String,
    obtain: impl FnOnce() -> Result<Files, KernelFailure>,
) -> Result<Kernel, KernelFailure> {
    let spec = NodeSpec {
        op: "kernel",
        op_version: OP_VERSION,
        params: serde_json::json!({
            "required": module::REQUIRED,
            "optional": module::OPTIONAL,
        }),
        inputs: inputs
            .iter()
            .map(|digest| ("file".to_owned(), *digest))
            .collect(),
        platform: Some("linux/amd64".to_owned()),
    };
    let mut packages = Packages::NotObtained(obtain);
    let outcome = engine.node(spec, || {
        if let Some((name, image)) = packages.obtain(engine)? {
            return store_image(engine, &name, image);
        }
        engine.stage(Stage::Kernel, "unpack", None, |_| {
            ingest::store_packages(engine.store(), packages.unpacked(&source)?)
        })
    })?;
    let digest = outcome.output("kernel")?.digest();
    let description = outcome.output("description")?.digest();
    let description = ingest::describe(engine.store(), &description)?;
    let modules = outcome.record.outputs.get("modules");
    let modules_disk = match description.has_modules {
        false => None,
        true => {
            let node = engine.node(modules_disk::spec(inputs), || {
                packages.obtain(engine)?;
                let disk = engine.stage(Stage::Kernel, "modules", None, |_| {
                    modules_disk::build(engine, inputs, packages.unpacked(&source)?)
                })?;
                Ok::<_, KernelFailure>([(modules_disk::OP.to_owned(), disk)].into())
            })?;
            Some(node.output(modules_disk::OP)?.digest())
        }
    };
    Ok(Kernel {
        digest,
        path: engine.store().blob_path(&digest),
        modules: modules.map(Output::digest),
        modules_disk,
        version: description.version,
        source,
    })
}

/// Stores an image that comes without modules.
fn store_image(engine: &Engine, name: &str, image: Scratch) -> Result<Outputs, KernelFailure> {
    let image = CheckedImage::new(engine.store(), name, image)?;
    image.require_drivers(name)?;
    if image.needs_kvm() {
        engine.emit(Event::Notice(format!(
            "the kernel {name} has no PVH entry point, so it boots on engine kvm only"
        )));
    }
    Ok(image.store(engine.store(), false)?)
}

/// The files of a kernel. They are obtained and unpacked at most once, for the first node that is
/// not in the store.
enum Packages<O> {
    NotObtained(O),
    Unpacked(Unpacked),
    /// They are an image.
    Image,
}

impl<O: FnOnce() -> Result<Files, KernelFailure>> Packages<O> {
    /// Obtains the files, unless they were; returns the image if they are one.
    fn obtain(&mut self, engine: &Engine) -> Result<Option<(String, Scratch)>, KernelFailure> {
        let obtain = match std::mem::replace(self, Packages::Image) {
            Packages::NotObtained(obtain) => obtain,
            obtained => {
                *self = obtained;
                return Ok(None);
            }
        };
        match obtain()? {
            Files::Image { name, image } => Ok(Some((name, image))),
            Files::Packages(packages) => {
                *self = Packages::Unpacked(Unpacked::read(engine.store(), packages)?);
                Ok(None)
            }
        }
    }

    fn unpacked(&self, source: &str) -> Result<&Unpacked, KernelError> {
        match self {
            Packages::Unpacked(unpacked) => Ok(unpacked),
            Packages::NotObtained(_) | Packages::Image => Err(KernelError::BadPackage {
                name: source.to_owned(),
                why: "it is not a package".to_owned(),
            }),
        }
    }
}

/// The node `kernelPackages`, which records the distribution's packages.
fn packages_node(packages: &[Candidate]) -> NodeSpec {
    let described: Vec<_> = packages
        .iter()
        .map(|package| serde_json::json!({"name": package.name, "version": package.version}))
        .collect();
    NodeSpec {
        op: "kernelPackages",
        op_version: OP_VERSION,
        params: serde_json::json!({ "packages": described }),
        inputs: packages
            .iter()
            .map(|package| (package.name.clone(), package.digest))
            .collect(),
        platform: Some("linux/amd64".to_owned()),
    }
}
