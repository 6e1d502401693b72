//! Explains an image: the nodes behind a reference as a tree, whether each is in the store, its cost,
//! and which inputs changed since it was last computed.

use std::time::SystemTime;

use microagent_cas::{Material, MaterialChange, NodeKey, Store, StoreError};
use serde::Serialize;

use crate::engine::node::NodeSpec;
use crate::engine::progress::short;
use crate::image::reference::Reference;
use crate::nodes::layer::{fetch_spec, unpack_spec};
use crate::nodes::resolve::{self, Image, ResolveFailure};
use crate::nodes::rootfs::{self, RootfsOptions};

/// A node and its inputs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The operation.
    pub op: String,
    /// Its object: a reference, a layer.
    pub detail: String,
    /// The node.
    pub key: NodeKey,
    /// Whether the next build finds it in the store. (`resolve` asks its source each time.)
    pub hit: bool,
    /// The size of its outputs in bytes, if it is known.
    pub size: Option<u64>,
    /// The wall time of its computation in milliseconds, if it is known.
    pub wall_millis: Option<u64>,
    /// When it was computed: RFC 3339, UTC.
    pub created_at: Option<String>,
    /// When it was last used: RFC 3339, UTC, precise to a minute.
    pub last_used: Option<String>,
    /// The inputs that changed since the previous node in its place.
    pub moved: Vec<MaterialChange>,
    /// The nodes it is computed from.
    pub inputs: Vec<Step>,
}

/// The nodes behind a reference as it was last resolved; `None` if it never was. Nothing is fetched
/// or computed.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn explain(
    store: &Store,
    reference: &Reference,
) -> Result<Option<(Image, Step)>, ResolveFailure> {
    let Some(image) = resolve::recorded_image(store, reference)? else {
        return Ok(None);
    };
    let mut layers = Vec::new();
    for layer in &image.layers {
        let detail = short(&layer.digest);
        let fetch = step(store, &fetch_spec(layer), &detail, Vec::new())?;
        layers.push(step(store, &unpack_spec(layer), &detail, vec![fetch])?);
    }
    let mut spec = rootfs::spec(&image, &RootfsOptions::default(), None);
    // With the size of the last build.
    let last = store.subject(rootfs::OP, &image.reference)?;
    if let Some(last) = &last {
        spec.params.clone_from(&last.material.params);
        let tools = last
            .material
            .inputs
            .iter()
            .filter(|input| input.name != "layer");
        spec.inputs
            .extend(tools.map(|input| (input.name.clone(), input.digest)));
    }
    let mut rootfs = step(store, &spec, &image.reference, layers)?;
    if let Some(last) = last {
        rootfs.moved = match last.key == rootfs.key {
            true => (last.previous.iter())
                .flat_map(|previous| last.material.changes_from(previous))
                .collect(),
            // The next build will compute it again, for this reason.
            false => material(&spec).changes_from(&last.material),
        };
    }
    let spec = resolve::spec(&image.reference);
    let top = step(store, &spec, &image.reference, vec![rootfs])?;
    Ok(Some((image, top)))
}

fn step(
    store: &Store,
    spec: &NodeSpec,
    detail: &str,
    inputs: Vec<Step>,
) -> Result<Step, StoreError> {
    let key = spec.key();
    let known = store.peek_node(&key)?;
    let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let record = known.as_ref().map(|(node, _)| &node.record);
    Ok(Step {
        op: spec.op.to_owned(),
        detail: detail.to_owned(),
        key,
        hit: known.as_ref().is_some_and(|(_, whole)| *whole),
        size: record.map(|record| record.size),
        wall_millis: record.map(|record| record.wall_millis),
        created_at: record.map(|record| record.created_at.clone()),
        last_used: known.as_ref().map(|(node, _)| time(node.last_used)),
        moved: Vec::new(),
        inputs,
    })
}

fn material(spec: &NodeSpec) -> Material {
    let inputs = spec.inputs.iter().cloned();
    Material {
        op_version: spec.op_version,
        params: spec.params.clone(),
        inputs: inputs
            .map(|(name, digest)| microagent_cas::Input { name, digest })
            .collect(),
    }
}
