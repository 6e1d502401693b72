//! The `kernelModules` node: all modules of a kernel's packages as a read-only ext4 file system, to
//! be mounted at `/lib/modules/<release>` in a guest.
//!
//! Its inputs are the packages, as for the node `kernel`. The modules are uncompressed, because the
//! kernel links them as they are; the indexes that a package does not contain are added
//! (`kernel::module_index`).

use microagent_cas::{Digest, Output, StoreError};

use crate::disk::Size;
use crate::disk::error::WriteError;
use crate::disk::ext4::{self, Identity};
use crate::engine::Engine;
use crate::engine::node::NodeSpec;
use crate::kernel::error::KernelFailure;
use crate::kernel::module_files;
use crate::kernel::package::Unpacked;
use crate::tar::entry::{Attributes, Content, Entry, EntryKind};
use crate::tree::Tree;
use crate::tree::merge::Merger;

/// The operation, and its output.
pub(super) const OP: &str = "kernelModules";

/// Must be incremented when the same packages could yield other bytes.
const OP_VERSION: u32 = 1;

/// The volume label.
const LABEL: &str = "modules";

/// The node of these packages.
pub(super) fn spec(packages: &[Digest]) -> NodeSpec {
    let inputs = packages.iter().map(|digest| ("file".to_owned(), *digest));
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({ "writer": ext4::WRITER, "label": LABEL }),
        inputs: inputs.collect(),
        platform: Some("linux/amd64".to_owned()),
    }
}

/// Writes the disk.
pub(super) fn build(
    engine: &Engine,
    packages: &[Digest],
    unpacked: &Unpacked,
) -> Result<Output, KernelFailure> {
    let store = engine.store();
    let collected = module_files::collect(store, unpacked)?;
    let bad = |error: &dyn std::error::Error| unpacked.bad(error.to_string());
    let mut merger = Merger::without_whiteouts();
    merger.begin_layer(0, LABEL);
    for file in &collected.files {
        let entry = Entry {
            path: file.path.clone().into_bytes(),
            kind: EntryKind::File(Content::dense(file.size, file.offset)),
            attributes: Attributes {
                mode: 0o644,
                ..Attributes::default()
            },
        };
        merger.add(entry).map_err(|error| bad(&error))?;
    }
    let tree: Tree = merger.finish();
    let seed = serde_json::json!([OP, OP_VERSION, packages]).to_string();
    let seed = Digest::of(seed.as_bytes());
    let identity = Identity {
        seed: &seed,
        label: LABEL,
    };
    let planned = ext4::plan_as(&tree, identity, Size::Headroom(0)).map_err(|error| bad(&error))?;
    let image = store.scratch()?;
    let failed = |error| StoreError::io("write an image in", store.root(), error);
    let data = collected.data.file().try_clone().map_err(failed)?;
    planned
        .write(&[data], image.file(), &mut |_| {})
        .map_err(|error| match error {
            WriteError::Image(error) => KernelFailure::from(failed(error)),
            // The data is this function's own scratch file.
            WriteError::Layer(_) => failed(std::io::ErrorKind::UnexpectedEof.into()).into(),
            WriteError::Disk(error) => bad(&error).into(),
        })?;
    Ok(image.commit_sparse()?.0)
}
