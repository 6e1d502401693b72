//! Making a workspace: it is complete afterwards, or there is none.
//!
//! The directory has a hidden name until the end ([`crate::dir`]). What the workspace consists of is
//! held by a root of the store, which has the name of its owner: a copy of the directory is not
//! released with it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use microagent_cas::{RootRecord, Store, StoreError};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::json;

use crate::dir::{DirError, NewWorkspace, WorkspaceDir, Workspaces};
use crate::event::{Event, now, record};
use crate::plan::resources::Resources;
use crate::prepare::{Prepared, Root};
use crate::spec::{Recorded, RecordedImage, RecordedKernel, Spec};
use crate::start::{ManifestError, objects, role};
use crate::state::State;

/// The field of a root that has the name of its workspace.
const OWNER: &str = "workspace";

/// A workspace cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreationError {
    /// Its directory cannot be written.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The store cannot hold what it consists of.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it consists of is not in the store's form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The event cannot be recorded.
    #[error("cannot record the event: {0}")]
    Event(io::Error),
    /// The host has no random numbers.
    #[error("cannot make an identity")]
    Random(#[source] io::Error),
}

/// Begins a workspace, as [`Workspaces::begin`]; the store releases what killed processes left.
///
/// # Errors
/// As there.
pub fn begin(workspaces: &Workspaces, store: &Store, name: &str) -> Result<NewWorkspace, DirError> {
    workspaces.begin(name, |spec| release_of_killed(store, spec))
}

/// Removes what killed processes left of workspaces that were not complete or were being deleted, and
/// what the store holds for them.
pub fn sweep(workspaces: &Workspaces, store: &Store) {
    workspaces.sweep(|spec| release_of_killed(store, spec));
}

fn release_of_killed(store: &Store, spec: &Spec) {
    if let Err(error) = release(store, spec, None) {
        tracing::warn!(%error, "cannot release what a killed command held");
    }
}

/// Deletes the workspace `name`, or what was saved of it, in `directory`, and what the store holds for that.
/// The caller holds its lock. A damaged manifest does not keep the rest.
///
/// # Errors
/// [`CreationError`].
pub fn delete(store: &Store, directory: WorkspaceDir, name: &str) -> Result<(), CreationError> {
    let spec = directory.known_spec();
    let hidden = directory.hide()?;
    // First, because a process that is killed while it removes the rest may leave no manifest.
    let released = spec.map_or(Ok(()), |spec| release(store, &spec, Some(name)));
    hidden.remove()?;
    Ok(released?)
}

/// Removes what the store holds for the workspace `name`, or for one that was never complete. That
/// of another one of which this is a copy stays.
///
/// # Errors
/// Those of the store.
pub fn release(store: &Store, spec: &Spec, name: Option<&str>) -> Result<(), StoreError> {
    let Some(recorded) = &spec.recorded else {
        return Ok(());
    };
    let root = root_name(recorded);
    let record = store.get_root(&root)?;
    let owner = record.as_ref().and_then(owner);
    if owner.is_some() && owner == name.or(spec.name.as_deref()) {
        store.remove_root(&root)?;
    }
    Ok(())
}

/// The workspace that a root of the store is for, if it is for one.
pub fn owner(root: &RootRecord) -> Option<&str> {
    root.value[OWNER].as_str()
}

/// The name of the store's root for a workspace.
fn root_name(recorded: &Recorded) -> String {
    format!("workspace-{}", recorded.runtime_id)
}

/// A random identity: 16 hexadecimal digits.
///
/// # Errors
/// [`CreationError::Random`].
pub fn random_id() -> Result<String, CreationError> {
    let mut random = [0; 8];
    getrandom(&mut random[..], GetRandomFlags::empty())
        .map_err(|error| CreationError::Random(error.into()))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(random)))
}

/// What a workspace of this size and `root` consists of, with what was `prepared` for it. `unset_env`
/// are variables of the image that it does not get. What its host passes to it is added by
/// [`Passed::record`](crate::passed::Passed::record).
///
/// # Errors
/// [`CreationError::Random`].
pub fn recorded<R>(
    resources: &Resources,
    root: &Root,
    prepared: &Prepared<R>,
    unset_env: &[String],
) -> Result<Recorded, CreationError> {
    let image = root.image.as_ref().map(|image| RecordedImage {
        reference: image.reference.clone(),
        resolved: image.resolved.clone(),
        digest: image.digest.to_string(),
        env: without(&image.config.env, unset_env),
        working_dir: image.config.working_dir.clone(),
        user: image.config.user.clone(),
        stop_signal: image.config.stop_signal.clone(),
    });
    let kernel = &prepared.kernel;
    Ok(Recorded {
        runtime_id: random_id()?,
        created_at: now(),
        image,
        memory_mib: resources.memory_mib,
        cpu_count: resources.cpu_count,
        rootfs: root.rootfs.to_string(),
        kernel: RecordedKernel {
            digest: kernel.digest.to_string(),
            modules_disk: kernel.modules_disk.map(|disk| disk.to_string()),
        },
        initramfs: prepared.initramfs.digest.to_string(),
        bundles: (prepared.bundles.iter())
            .map(|bundle| bundle.digest.to_string())
            .collect(),
        argv: root.argv.clone(),
        variables: BTreeMap::new(),
        ca_certs: Vec::new(),
        supervisor: None,
    })
}

/// The variables of the image, `NAME=value`, without those that the caller named and does not have.
fn without(image: &[String], unset: &[String]) -> Vec<String> {
    let named = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    (image.iter().filter(|entry| !unset.contains(&named(entry))))
        .cloned()
        .collect()
}

/// A workspace with its manifest, before it is complete. Dropping it removes it.
#[derive(Debug)]
pub struct Creation {
    store: Store,
    new: NewWorkspace,
    spec: Spec,
    recorded: Recorded,
    held: Option<Held>,
    /// A state was recorded.
    stateful: bool,
}

/// A root of the store. Dropping it removes the root.
#[derive(Debug)]
struct Held {
    store: Store,
    root: String,
    kept: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.store.remove_root(&self.root);
        }
    }
}

impl Creation {
    /// A workspace that is to consist of what is `recorded`.
    pub fn new(store: &Store, new: NewWorkspace, spec: Spec, recorded: Recorded) -> Creation {
        Creation {
            store: store.clone(),
            new,
            spec: Spec {
                recorded: Some(recorded.clone()),
                ..spec
            },
            recorded,
            held: None,
            stateful: false,
        }
    }

    /// Its manifest.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its directory for the time being.
    pub fn directory(&self) -> &WorkspaceDir {
        self.new.directory()
    }

    /// The file of the store that holds what it consists of. A process that is terminated before
    /// the workspace is complete removes it, and the directory.
    ///
    /// # Errors
    /// Those of the store.
    pub fn root_file(&self) -> Result<PathBuf, StoreError> {
        self.store.root_file(&root_name(&self.recorded))
    }

    /// Writes the manifest, and holds in the store what it names. From now on the VM can be started.
    ///
    /// # Errors
    /// [`CreationError`].
    pub fn hold(&mut self) -> Result<(), CreationError> {
        self.directory().write_spec(&self.spec)?;
        let objects = objects(&self.recorded)?;
        let value = json!({ OWNER: self.spec.name });
        let held = self.held.insert(Held {
            store: self.store.clone(),
            root: root_name(&self.recorded),
            kept: false,
        });
        Ok(held.store.set_root(&held.root, objects, value)?)
    }

    /// Records a state that it is in before it is complete: its VM runs meanwhile on `engine`.
    ///
    /// # Errors
    /// [`CreationError`].
    pub fn record(
        &mut self,
        state: State,
        engine: Option<&str>,
        detail: Option<String>,
    ) -> Result<(), CreationError> {
        let event = Event {
            request_id: random_id()?,
            runtime_id: self.recorded.runtime_id.clone(),
            role: role(&self.spec).to_owned(),
            engine: engine.map(str::to_owned),
            state,
            observed_at: now(),
            detail,
        };
        self.stateful = true;
        record(self.directory().path(), event).map_err(CreationError::Event)
    }

    /// Gives it its name. Its state is the last that was recorded, or else `prepared`.
    ///
    /// # Errors
    /// [`CreationError`]; there is no workspace then.
    pub fn complete(mut self) -> Result<WorkspaceDir, CreationError> {
        if !self.stateful {
            self.record(State::Prepared, None, None)?;
        }
        let directory = self.new.complete()?;
        if let Some(mut held) = self.held {
            held.kept = true;
        }
        Ok(directory)
    }
}
