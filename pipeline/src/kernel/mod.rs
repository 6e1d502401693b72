//! Guest kernels: from the distribution, a file or an address to two blobs of the store.
//!
//! | question | module |
//! |---|---|
//! | is this file a kernel that boots | [`image`] |
//! | what does a compressed kernel hold | [`payload`] |
//! | what does a kernel package hold | [`package`], [`module`] |
//! | which package does the distribution offer | [`apt`] |
//! | what is the kernel of `run` without `--kernel` | [`default`] |
//! | how is one built from source | [`build`] |
//!
//! The node `kernel` has the files it comes from as inputs (one image, or the packages in the order
//! of their names) and as outputs the image (`kernel`), the modules that a microVM needs as a tar
//! in load order (`modules`, where there are any) and what is known of it (`description`). So a
//! package gives the same node whether it came from apt, from a path or from an address. The node
//! `kernelPackages` records what the distribution offered; that is never a hit.

mod apt;
mod build;
mod default;
mod download;
mod error;
mod image;
mod module;
mod package;
mod payload;
mod tool;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Output, StoreError};
use serde::{Deserialize, Serialize};

pub use build::{BuiltKernel, KernelBuild, KernelBuildError};
pub use error::KernelError;

use crate::engine::node::{NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::pipeline::Pipeline;
use apt::{Apt, Candidate};
use image::{BannerSearch, KernelImage};
use package::{Package, Unpacked};

/// Rises whenever other bytes come out of the same files.
const OP_VERSION: u32 = 2;

/// The largest kernel file or package that is taken, in bytes: a vmlinux with all its debugging
/// information stays below.
pub(crate) const MAX_KERNEL: u64 = 2 << 30;

/// How much of a kernel is copied at once, in bytes.
const CHUNK: usize = 256 << 10;

/// The longest description that is read, in bytes.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The kernel for virtual machines that the host's distribution offers, through its package
    /// client, without root.
    Distribution,
    /// A file: a bzImage, an ELF vmlinux, or a `.deb` that holds a kernel.
    Path(PathBuf),
    /// The same from an http or https address.
    Url {
        /// The address.
        url: String,
        /// What its bytes must have.
        sha256: Digest,
    },
}

/// A guest kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// The image: an ELF vmlinux, or a bzImage from which none could be taken.
    pub digest: Digest,
    /// Where the image is.
    #[serde(skip)]
    pub path: PathBuf,
    /// The modules a microVM needs, as a tar of uncompressed `<name>.ko` in load order. `None` when
    /// there are none: all built in, or only an image was given.
    pub modules: Option<Digest>,
    /// The kernel's release, such as `6.1.0-28-cloud-amd64`, where the image tells it.
    pub version: Option<String>,
    /// Where it came from: a package with its version, a path or an address.
    pub source: String,
}

/// The output `description` of the node `kernel`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    version: Option<String>,
}

/// The files a kernel is made from.
enum Files {
    Image { name: String, file: File },
    Packages(Vec<Package>),
}

impl Pipeline {
    /// Brings a kernel into the store, or finds it there.
    ///
    /// # Errors
    /// [`Error::Kernel`] says which file is no kernel and why, what a package lacks, or what the
    /// package client or the server answered.
    pub fn kernel(&self, source: &KernelSource) -> Result<Kernel, Error> {
        match source {
            KernelSource::Path(path) => self.kernel_from_path(path),
            KernelSource::Url { url, sha256 } => {
                download::check_url(url)?;
                self.kernel_node(&[*sha256], url.clone(), || {
                    let scratch = self.download_kernel(url, sha256)?;
                    let file = scratch.file().try_clone();
                    let file =
                        file.map_err(|error| StoreError::io("open", scratch.path(), error))?;
                    files_of(url.clone(), file)
                })
            }
            KernelSource::Distribution => self.kernel_from_distribution(),
        }
    }

    fn kernel_from_path(&self, path: &Path) -> Result<Kernel, Error> {
        let unreadable = |source| KernelError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let name = path.display().to_string();
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let why = match metadata.len() {
            _ if metadata.is_dir() => "it is a directory",
            _ if !metadata.is_file() => "it is no regular file",
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
        let (digest, _) = self.store().digest_known(path)?;
        let kernel = self.kernel_node(&[digest], name.clone(), || files_of(name, file))?;
        self.record_local_file(path, &digest)?;
        Ok(kernel)
    }

    fn kernel_from_distribution(&self) -> Result<Kernel, Error> {
        let host = Apt::of_host();
        let from_host = host
            .kernel_packages()
            .map_err(Error::from)
            .and_then(|packages| self.kernel_from_apt(&host, packages));
        match from_host {
            // No lists, or lists that name what the mirrors no longer have.
            Err(Error::Kernel(
                error @ (KernelError::NoKernelPackage { .. }
                | KernelError::BadPackage { .. }
                | KernelError::Program { .. }),
            )) => {
                tracing::debug!(%error, "the host's package lists do not serve");
                self.tell(Event::Notice(
                    "fetching the distribution's package lists".to_owned(),
                ));
                let (private, packages) = Apt::private(self.store())?;
                self.kernel_from_apt(&private, packages)
            }
            other => other,
        }
    }

    fn kernel_from_apt(&self, apt: &Apt, packages: Vec<Candidate>) -> Result<Kernel, Error> {
        let source = packages
            .iter()
            .map(|package| format!("{} {}", package.name, package.version))
            .collect::<Vec<_>>()
            .join(", ");
        self.observe(offer(&packages), || Ok(Outputs::new()))?;
        let digests: Vec<_> = packages.iter().map(|package| package.digest).collect();
        self.kernel_node(&digests, source.clone(), || {
            self.tell(Event::Notice(format!(
                "installing the default kernel: {source}"
            )));
            let dir = self.store().scratch_dir()?;
            let mut files = Vec::new();
            for package in &packages {
                let detail = package.name.clone();
                self.tell(Event::StageStarted {
                    stage: Stage::Kernel,
                    detail: detail.clone(),
                    total_bytes: Some(package.size),
                });
                files.push(apt.download(package, dir.path())?);
                self.tell(Event::StageDone {
                    stage: Stage::Kernel,
                    detail,
                });
            }
            Ok(Files::Packages(files))
        })
    }

    /// The node `kernel`; `obtain` is only asked for the files when they are needed.
    fn kernel_node(
        &self,
        inputs: &[Digest],
        source: String,
        obtain: impl FnOnce() -> Result<Files, Error>,
    ) -> Result<Kernel, Error> {
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
        let outcome = self.node(spec, || match obtain()? {
            Files::Image { name, mut file } => {
                let unreadable = |source| KernelError::Unreadable {
                    path: PathBuf::from(&name),
                    source,
                };
                file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
                let size = file.metadata().map_err(unreadable)?.len();
                self.store_image(&name, size, file)
            }
            Files::Packages(packages) => self.store_packages(packages),
        })?;
        let digest = outcome.output("kernel")?.digest();
        let description = outcome.output("description")?.digest();
        let modules = outcome.record.outputs.get("modules");
        Ok(Kernel {
            digest,
            path: self.store().blob_path(&digest),
            modules: modules.map(Output::digest),
            version: self.describe(&description)?.version,
            source,
        })
    }

    fn describe(&self, digest: &Digest) -> Result<Description, Error> {
        let corrupt = |why: &str| StoreError::Corrupt {
            path: self.store().blob_path(digest),
            why: why.to_owned(),
        };
        let bytes = self.store().read_blob(digest, MAX_DESCRIPTION)?;
        let bytes = bytes.ok_or_else(|| corrupt("it is missing"))?;
        Ok(serde_json::from_slice(&bytes).map_err(|_| corrupt("it describes no kernel"))?)
    }

    /// Checks an image of `size` bytes and puts it into the store.
    fn store_image(&self, name: &str, size: u64, mut reader: impl Read) -> Result<Outputs, Error> {
        let path = Path::new(name);
        let unreadable = |source| KernelError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let not = |why| KernelError::NotAKernel {
            name: name.to_owned(),
            why,
        };
        let mut buffer = Vec::new();
        reader
            .by_ref()
            .take(image::HEAD)
            .read_to_end(&mut buffer)
            .map_err(unreadable)?;
        let image = image::identify(&buffer).map_err(not)?;
        if let KernelImage::BzImage { length, .. } = image
            && size < length
        {
            return Err(not(format!("it is cut short at {size} of {length} bytes")).into());
        }
        let spool = self.store().scratch()?;
        let mut banner = BannerSearch::default();
        let mut filled = buffer.len();
        let mut written = 0;
        let head = buffer.clone();
        while filled > 0 {
            let chunk = &buffer[..filled];
            spool
                .file()
                .write_all_at(chunk, written)
                .map_err(|error| StoreError::io("write to", spool.path(), error))?;
            written += filled as u64;
            if image == KernelImage::Vmlinux {
                banner.feed(chunk);
            }
            buffer.resize(CHUNK, 0);
            filled = reader.read(&mut buffer).map_err(unreadable)?;
        }
        if written != size {
            return Err(not(format!(
                "it changed while it was read ({size} bytes before)"
            ))
            .into());
        }
        let (version, kernel) = match image {
            KernelImage::BzImage { version, .. } => {
                let vmlinux = payload::vmlinux(self.store(), spool.file(), &head)?;
                (version, vmlinux.unwrap_or(spool))
            }
            KernelImage::Vmlinux => (banner.finish(), spool),
        };
        let (digest, _) = kernel.commit()?;
        let description = serde_json::json!(Description { version }).to_string();
        let description = self.store().put_bytes(description.as_bytes())?;
        Ok([
            ("kernel".to_owned(), digest.into()),
            ("description".to_owned(), description.into()),
        ]
        .into())
    }

    fn store_packages(&self, packages: Vec<Package>) -> Result<Outputs, Error> {
        let detail = "unpack".to_owned();
        let stage = Stage::Kernel;
        self.tell(Event::StageStarted {
            stage,
            detail: detail.clone(),
            total_bytes: None,
        });
        let unpacked = Unpacked::read(self.store(), packages)?;
        let (name, size, image) = unpacked.kernel()?;
        let mut outputs = self.store_image(&name, size, image)?;
        if let Some(modules) = unpacked.store_modules(self.store())? {
            outputs.insert("modules".to_owned(), modules.into());
        }
        self.tell(Event::StageDone { stage, detail });
        Ok(outputs)
    }
}

/// The node that records which packages the distribution offered.
fn offer(packages: &[Candidate]) -> NodeSpec {
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

fn files_of(name: String, mut file: File) -> Result<Files, Error> {
    let unreadable = |source| KernelError::Unreadable {
        path: PathBuf::from(&name),
        source,
    };
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    (&file)
        .take(64)
        .read_to_end(&mut head)
        .map_err(unreadable)?;
    Ok(if package::is_package(&head) {
        Files::Packages(vec![Package { name, file }])
    } else {
        Files::Image { name, file }
    })
}
