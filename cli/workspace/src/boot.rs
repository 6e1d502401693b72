//! What a VM boots.

use serde::{Deserialize, Serialize};

use crate::spec::{Recorded, RecordedKernel};

/// A kernel, and the initramfs with its modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// The kernel.
    pub kernel: RecordedKernel,
    /// The digest of the initramfs.
    pub initramfs: String,
}

impl Boot {
    /// What `create` recorded.
    pub fn recorded(recorded: &Recorded) -> Boot {
        Boot {
            kernel: recorded.kernel.clone(),
            initramfs: recorded.initramfs.clone(),
        }
    }
}
