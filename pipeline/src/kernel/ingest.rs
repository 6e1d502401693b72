//! Stores a kernel: the outputs of the kernel nodes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::error::{KernelError, KernelFailure};
use super::image::{self, BannerSearch, KernelImage};
use super::package::{self, Package, Unpacked};
use super::payload;
use crate::engine::node::Outputs;

/// The size of a read from a kernel, in bytes.
const CHUNK: usize = 256 << 10;

/// The maximum size of a description, in bytes.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// The output `description` of a kernel node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) version: Option<String>,
}

/// The files that contain a kernel.
pub(crate) enum Files {
    Image { name: String, file: File },
    Packages(Vec<Package>),
}

impl Files {
    /// A file that is an image or a package; `name` is for messages.
    pub(crate) fn of(name: String, mut file: File) -> Result<Files, KernelFailure> {
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
}

/// Checks an image file and puts it into the store; `name` is for messages.
pub(crate) fn store_file(
    store: &Store,
    name: &str,
    mut file: File,
) -> Result<Outputs, KernelFailure> {
    let unreadable = |source| KernelError::Unreadable {
        path: PathBuf::from(name),
        source,
    };
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    store_image(store, name, size, file)
}

/// Puts the kernel of some packages and its modules into the store.
pub(crate) fn store_packages(
    store: &Store,
    packages: Vec<Package>,
) -> Result<Outputs, KernelFailure> {
    let unpacked = Unpacked::read(store, packages)?;
    let (name, size, image) = unpacked.kernel()?;
    let mut outputs = store_image(store, &name, size, image)?;
    if let Some(modules) = unpacked.store_modules(store)? {
        outputs.insert("modules".to_owned(), modules.into());
    }
    Ok(outputs)
}

/// Checks an image of `size` bytes and puts it into the store.
pub(crate) fn store_image(
    store: &Store,
    name: &str,
    size: u64,
    mut reader: impl Read,
) -> Result<Outputs, KernelFailure> {
    let path = Path::new(name);
    let unreadable = |source| KernelError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let not_a_kernel = |why| KernelError::NotAKernel {
        name: name.to_owned(),
        why,
    };
    let mut buffer = Vec::new();
    reader
        .by_ref()
        .take(image::HEAD)
        .read_to_end(&mut buffer)
        .map_err(unreadable)?;
    let image = image::identify(&buffer).map_err(not_a_kernel)?;
    if let KernelImage::BzImage { length, .. } = image
        && size < length
    {
        return Err(not_a_kernel(format!("it is truncated: {size} of {length} bytes")).into());
    }
    let spool = store.scratch()?;
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
        return Err(not_a_kernel(format!(
            "its size changed while it was read (from {size} to {written} bytes)"
        ))
        .into());
    }
    let (version, kernel) = match image {
        KernelImage::BzImage { version, .. } => {
            let vmlinux = payload::vmlinux(store, spool.file(), &head)?;
            (version, vmlinux.unwrap_or(spool))
        }
        KernelImage::Vmlinux => (banner.finish(), spool),
    };
    let (digest, _) = kernel.commit()?;
    let description = serde_json::json!(Description { version }).to_string();
    let description = store.put_bytes(description.as_bytes())?;
    Ok([
        ("kernel".to_owned(), digest.into()),
        ("description".to_owned(), description.into()),
    ]
    .into())
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
