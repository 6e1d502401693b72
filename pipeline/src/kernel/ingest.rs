//! Stores a kernel: the outputs of the kernel nodes.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use microagent_cas::{Digest, Scratch, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::contents::Contents;
use super::error::{KernelError, KernelFailure};
use super::image::{self, KernelImage};
use super::package::{self, Package, Unpacked};
use super::payload::{self, PayloadError};
use crate::engine::node::Outputs;

/// The maximum size of a description, in bytes.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// The output `description` of a kernel node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) version: Option<String>,
    /// Whether its packages contain modules, so that there is a node `kernelModules`.
    #[serde(default)]
    pub(crate) has_modules: bool,
}

/// The files that contain a kernel.
pub(crate) enum Files {
    Image { name: String, image: Scratch },
    Packages(Vec<Package>),
}

impl Files {
    /// A file that is an image or a package; `name` is for messages.
    pub(crate) fn of(name: String, image: Scratch) -> Result<Files, KernelFailure> {
        let unreadable = |error| StoreError::io("read", image.path(), error);
        let mut head = [0; 64];
        let count = image.file().read_at(&mut head, 0).map_err(unreadable)?;
        if !package::is_package(&head[..count]) {
            return Ok(Files::Image { name, image });
        }
        let file = image.file().try_clone().map_err(unreadable)?;
        Ok(Files::Packages(vec![Package { name, file }]))
    }
}

/// A kernel that was checked and can be stored.
pub(crate) struct CheckedImage {
    kernel: Scratch,
    /// Its release, if the image contains it.
    version: Option<String>,
    /// The contents of a vmlinux; `None` for a bzImage from which none was extracted.
    contents: Option<Contents>,
}

impl CheckedImage {
    /// Checks an image file and extracts its vmlinux; `name` is for messages.
    pub(crate) fn new(
        store: &Store,
        name: &str,
        file: Scratch,
    ) -> Result<CheckedImage, KernelFailure> {
        let not_a_kernel = |why| KernelError::NotAKernel {
            name: name.to_owned(),
            why,
        };
        let size = file
            .file()
            .metadata()
            .map_err(|error| StoreError::io("read", file.path(), error))?
            .len();
        let head = head(&file)?;
        let image = image::identify(&head).map_err(not_a_kernel)?;
        let length = image.length();
        if size < length {
            let why = format!("it is truncated: {size} of {length} bytes");
            return Err(not_a_kernel(why).into());
        }
        let (version, kernel, is_vmlinux) = match image {
            KernelImage::Vmlinux { .. } => (None, file, true),
            KernelImage::BzImage { version, .. } => {
                let vmlinux = payload::vmlinux(store, file.file(), &head);
                match vmlinux.map_err(|error| match error {
                    PayloadError::Store(error) => KernelFailure::from(error),
                    PayloadError::Damaged(error) => {
                        not_a_kernel(format!("its compressed part is damaged: {error}")).into()
                    }
                })? {
                    Some(vmlinux) => (version, vmlinux, true),
                    None => (version, file, false),
                }
            }
        };
        let contents = match is_vmlinux {
            false => None,
            true => {
                let contents = Contents::read(kernel.file(), &self::head(&kernel)?);
                Some(contents.map_err(|error| StoreError::io("read", kernel.path(), error))?)
            }
        };
        let release = contents.as_ref().and_then(|found| found.release.clone());
        Ok(CheckedImage {
            kernel,
            version: version.or(release),
            contents,
        })
    }

    /// The required drivers that are known to be built in.
    pub(crate) fn built_in(&self) -> &[&'static str] {
        let contents = self.contents.as_ref();
        contents.map_or(&[], |contents| &contents.drivers)
    }

    /// Requires that every driver that a microVM needs is built in, because there are no modules.
    ///
    /// # Errors
    /// [`KernelError::MissingDrivers`].
    pub(crate) fn require_drivers(&self, name: &str) -> Result<(), KernelError> {
        let contents = self.contents.as_ref();
        let drivers = contents.map_or(Vec::new(), Contents::missing_drivers);
        match drivers.is_empty() {
            true => Ok(()),
            false => Err(KernelError::MissingDrivers {
                name: name.to_owned(),
                drivers,
            }),
        }
    }

    /// Whether engine `qemu` cannot boot it: an ELF kernel without a PVH entry point.
    pub(crate) fn needs_kvm(&self) -> bool {
        let contents = self.contents.as_ref();
        contents.is_some_and(|contents| !contents.has_pvh_entry)
    }

    /// Puts it into the store.
    pub(crate) fn store(self, store: &Store, has_modules: bool) -> Result<Outputs, StoreError> {
        let (digest, _) = self.kernel.commit()?;
        let description = Description {
            version: self.version,
            has_modules,
        };
        let description = serde_json::json!(description).to_string();
        let description = store.put_bytes(description.as_bytes())?;
        Ok([
            ("kernel".to_owned(), digest.into()),
            ("description".to_owned(), description.into()),
        ]
        .into())
    }
}

/// The first [`image::HEAD`] bytes.
fn head(file: &Scratch) -> Result<Vec<u8>, StoreError> {
    let unreadable = |error| StoreError::io("read", file.path(), error);
    let mut head = Vec::new();
    let mut reader = file.file();
    reader
        .seek(SeekFrom::Start(0))
        .and_then(|_| reader.take(image::HEAD).read_to_end(&mut head))
        .map_err(unreadable)?;
    Ok(head)
}

/// Puts the kernel of packages, and the modules that a microVM requires, into the store.
pub(crate) fn store_packages(store: &Store, unpacked: &Unpacked) -> Result<Outputs, KernelFailure> {
    let (name, mut reader) = unpacked.kernel()?;
    let image = store.scratch()?;
    io::copy(&mut reader, &mut image.file())
        .map_err(|error| StoreError::io("write to", image.path(), error))?;
    drop(reader);
    let image = CheckedImage::new(store, &name, image)?;
    let modules = unpacked.store_modules(store, image.built_in())?;
    let mut outputs = image.store(store, unpacked.has_modules())?;
    if let Some(modules) = modules {
        outputs.insert("modules".to_owned(), modules.into());
    }
    Ok(outputs)
}

/// Reads the description of a kernel in the store.
///
/// # Errors
/// If it is missing or damaged.
pub(crate) fn describe(store: &Store, digest: &Digest) -> Result<Description, StoreError> {
    let corrupt = |why: &str| StoreError::Corrupt {
        path: store.blob_path(digest),
        why: why.to_owned(),
    };
    let bytes = store.read_blob(digest, MAX_DESCRIPTION)?;
    let bytes = bytes.ok_or_else(|| corrupt("it is missing"))?;
    serde_json::from_slice(&bytes).map_err(|_| corrupt("it is not a kernel description"))
}
