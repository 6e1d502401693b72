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
}

/// What a kernel consists of.
fn objects(kernel: &Kernel) -> Vec<Output> {
    let image = Output::Blob(kernel.digest);
    let modules = kernel.modules.map(Output::Blob);
    let disk = kernel.modules_disk.map(Output::Sparse);
    [Some(image), modules, disk].into_iter().flatten().collect()
}

/// Makes a kernel in this store the default.
///
/// # Errors
/// If one of its blobs is missing or the root cannot be written.
pub(crate) fn set(store: &Store, kernel: &Kernel) -> Result<(), StoreError> {
    let objects = objects(kernel);
    for object in &objects {
        if !store.is_intact(object)? {
            return Err(StoreError::Corrupt {
                path: store.output_path(object),
                why: "it is missing".to_owned(),
            });
        }
    }
    let value = Value {
        kernel: kernel.clone(),
    };
    store.set_root(ROOT, objects, serde_json::json!(value))
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
    for object in objects(&value.kernel) {
        if !store.is_intact(&object)? {
            return Ok(None);
        }
    }
    Ok(Some(value.kernel))
}
