//! The `snapshot` node: an idle VM that has booted.
//!
//! Inputs are the monitor's program, the kernel and the initramfs; parameters are the VM's shape and the
//! identity of the host. Its output is a sparse file that the monitor writes and reads. The caller runs
//! the VM: this crate has none.

use std::fs::File;
use std::path::PathBuf;

use microagent_cas::{Digest, NodeKey, StoreError};

use crate::engine::Engine;
use crate::engine::node::{NodeOutcome, NodeSpec};

/// The operation, and its output.
const OP: &str = "snapshot";

/// Must be incremented when what is saved for the same inputs has another meaning.
const OP_VERSION: u32 = 1;

/// Everything that a snapshot depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotInputs {
    /// The monitor's program.
    pub monitor: Digest,
    /// The kernel.
    pub kernel: Digest,
    /// The initramfs.
    pub initramfs: Digest,
    /// The VM's processors, memory and devices.
    pub shape: serde_json::Value,
    /// Processor and kernel of the host.
    pub host: String,
}

impl SnapshotInputs {
    /// The key of the node, whether or not it is in the store.
    pub fn key(&self) -> NodeKey {
        spec(self).key()
    }
}

/// A snapshot in the store.
#[derive(Debug)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// The node.
    pub node: NodeOutcome,
}

impl Snapshot {
    /// A name that no other content has.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

fn spec(inputs: &SnapshotInputs) -> NodeSpec {
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({ "shape": inputs.shape, "host": inputs.host }),
        inputs: vec![
            ("monitor".to_owned(), inputs.monitor),
            ("kernel".to_owned(), inputs.kernel),
            ("initramfs".to_owned(), inputs.initramfs),
        ],
        platform: Some("linux/amd64".to_owned()),
    }
}

fn of_node(engine: &Engine, node: NodeOutcome) -> Result<Snapshot, StoreError> {
    let path = engine.store().output_path(&node.output(OP)?);
    Ok(Snapshot { path, node })
}

/// Finds a snapshot; `None` if it is not in the store.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn find(
    engine: &Engine,
    inputs: &SnapshotInputs,
) -> Result<Option<Snapshot>, StoreError> {
    let node = engine.find(spec(inputs))?;
    node.map(|node| of_node(engine, node)).transpose()
}

/// Finds a snapshot, or lets `save` write it to an empty file; with `again` the latter in any case.
///
/// # Errors
/// Those of `save` and of the store.
pub(crate) fn snapshot<E: From<StoreError>>(
    engine: &Engine,
    inputs: &SnapshotInputs,
    again: bool,
    save: impl FnOnce(&File) -> Result<(), E>,
) -> Result<Snapshot, E> {
    let take = || {
        let scratch = engine.store().scratch()?;
        save(scratch.file())?;
        let (output, _) = scratch.commit_sparse()?;
        Ok::<_, E>([(OP.to_owned(), output)].into())
    };
    let node = match again {
        true => engine.observe(spec(inputs), take),
        false => engine.node(spec(inputs), take),
    }?;
    Ok(of_node(engine, node)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::engine::for_test;

    fn inputs() -> SnapshotInputs {
        SnapshotInputs {
            monitor: Digest::of(b"monitor"),
            kernel: Digest::of(b"kernel"),
            initramfs: Digest::of(b"initramfs"),
            shape: serde_json::json!({"cpus": 1}),
            host: "host".into(),
        }
    }

    fn save(file: &File) -> Result<(), StoreError> {
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"state", 1 << 19).unwrap();
        Ok(())
    }

    #[test]
    fn a_snapshot_is_saved_once_and_found_by_all_of_its_inputs() {
        let (_dir, engine) = for_test();
        assert!(find(&engine, &inputs()).unwrap().is_none());
        let made = snapshot(&engine, &inputs(), false, save).unwrap();
        assert_eq!(std::fs::metadata(&made.path).unwrap().len(), 1 << 20);
        let again = |_: &File| -> Result<(), StoreError> { panic!("it is in the store") };
        assert!(snapshot(&engine, &inputs(), false, again).unwrap().node.hit);
        assert_eq!(find(&engine, &inputs()).unwrap().unwrap().path, made.path);
        let other = |file: &File| -> Result<(), StoreError> {
            file.write_all_at(b"other", 0).unwrap();
            Ok(())
        };
        let again = snapshot(&engine, &inputs(), true, other).unwrap();
        assert!(!again.node.hit && again.path != made.path);
        assert_eq!(inputs().key(), again.node.key);
        assert_eq!(find(&engine, &inputs()).unwrap().unwrap().path, again.path);
        let other = Digest::of(b"other");
        let others = [
            SnapshotInputs {
                monitor: other,
                ..inputs()
            },
            SnapshotInputs {
                kernel: other,
                ..inputs()
            },
            SnapshotInputs {
                initramfs: other,
                ..inputs()
            },
            SnapshotInputs {
                shape: serde_json::json!({"cpus": 2}),
                ..inputs()
            },
            SnapshotInputs {
                host: "other".into(),
                ..inputs()
            },
        ];
        for other in others {
            assert!(find(&engine, &other).unwrap().is_none(), "{other:?}");
        }
    }

    #[test]
    fn what_fails_is_not_kept_and_what_was_changed_is_not_found() {
        let (_dir, engine) = for_test();
        let failed = snapshot(&engine, &inputs(), false, |file| {
            save(file)?;
            Err(StoreError::io(
                "write",
                std::path::Path::new("x"),
                std::io::Error::from(std::io::ErrorKind::StorageFull),
            ))
        });
        assert!(failed.is_err());
        assert!(find(&engine, &inputs()).unwrap().is_none());
        let made = snapshot(&engine, &inputs(), false, save).unwrap();
        let mut permissions = std::fs::metadata(&made.path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        std::fs::set_permissions(&made.path, permissions).unwrap();
        let file = File::options().write(true).open(&made.path).unwrap();
        file.write_all_at(b"x", 7).unwrap();
        assert!(find(&engine, &inputs()).unwrap().is_none());
    }
}
