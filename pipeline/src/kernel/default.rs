//! The default kernel, which `run` boots without `--kernel`. It is a root of the store, so garbage
//! collection keeps it.

use microagent_cas::{Output, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::Kernel;

/// The root's name.
const ROOT: &str = "default-kernel";

/// The value of the root.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    kernel: Kernel,
    /// Size in bytes, to detect a damaged blob without hashing it at every start.
    kernel_size: u64,
    modules_size: Option<u64>,
}

/// Makes a kernel in this store the default.
///
/// # Errors
/// If one of its blobs is missing or the root cannot be written.
pub(crate) fn set(store: &Store, kernel: &Kernel) -> Result<(), StoreError> {
    let size = |digest| {
        let missing = || StoreError::Corrupt {
            path: store.blob_path(digest),
            why: "it is missing".to_owned(),
        };
        store.blob_size(digest)?.ok_or_else(missing)
    };
    let value = Value {
        kernel: kernel.clone(),
        kernel_size: size(&kernel.digest)?,
        modules_size: kernel.modules.as_ref().map(size).transpose()?,
    };
    let blobs = [kernel.digest]
        .into_iter()
        .chain(kernel.modules)
        .map(Output::Blob)
        .collect();
    store.set_root(ROOT, blobs, serde_json::json!(value))
}

/// Returns the default kernel; `None` if none is set or its blobs are missing or damaged.
///
/// # Errors
/// If the store cannot be read.
pub(crate) fn get(store: &Store) -> Result<Option<Kernel>, StoreError> {
    let root = match store.get_root(ROOT) {
        Ok(Some(root)) => root,
        Ok(None) => return Ok(None),
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::warn!(%error, "ignoring the record of the default kernel");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let Ok(mut value) = serde_json::from_value::<Value>(root.value) else {
        tracing::warn!("ignoring the record of the default kernel: invalid JSON");
        return Ok(None);
    };
    value.kernel.path = store.blob_path(&value.kernel.digest);
    let size = |digest| store.blob_size(digest);
    let is_complete = size(&value.kernel.digest)? == Some(value.kernel_size)
        && value
            .kernel
            .modules
            .as_ref()
            .map(size)
            .transpose()?
            .flatten()
            == value.modules_size;
    Ok(is_complete.then_some(value.kernel))
}
