//! Why an image is as it is: the nodes behind one reference as a tree, whether each is there, what
//! it cost, and what moved when it was made anew.

use std::time::SystemTime;

use microagent_cas::{Material, MaterialChange, NodeKey};
use serde::Serialize;

use crate::engine::node::NodeSpec;
use crate::error::Error;
use crate::image::reference::Reference;
use crate::nodes::layer::{fetch_spec, short, unpack_spec};
use crate::nodes::resolve::{self, Image};
use crate::nodes::rootfs::{self, RootfsOptions};
use crate::pipeline::Pipeline;

/// A node and what it is made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The operation.
    pub op: String,
    /// What it was done for: a reference, a layer.
    pub detail: String,
    /// The node.
    pub key: NodeKey,
    /// Whether the next build finds it. (`resolve` is asked anew each time all the same.)
    pub hit: bool,
    /// Its outputs' length in bytes, where it is known.
    pub size: Option<u64>,
    /// What computing it took, in milliseconds of wall time, where it is known.
    pub wall_millis: Option<u64>,
    /// When it was computed: RFC 3339, UTC.
    pub created_at: Option<String>,
    /// When it was used last: RFC 3339, UTC, to a minute.
    pub last_used: Option<String>,
    /// What moved since the node that stood in its place before.
    pub moved: Vec<MaterialChange>,
    /// The nodes it is made from.
    pub inputs: Vec<Step>,
}

impl Pipeline {
    /// The nodes behind a reference, as it was resolved here last; `None` if it never was. Nothing
    /// is fetched or computed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn explain(&self, reference: &Reference) -> Result<Option<(Image, Step)>, Error> {
        let Some(image) = self.recorded_image(reference)? else {
            return Ok(None);
        };
        let mut layers = Vec::new();
        for layer in &image.layers {
            let detail = short(&layer.digest);
            let fetch = self.step(&fetch_spec(layer), &detail, Vec::new())?;
            layers.push(self.step(&unpack_spec(layer), &detail, vec![fetch])?);
        }
        let mut spec = rootfs::spec(&image, &RootfsOptions::default(), None);
        // With the size it was built with last.
        let last = self.store().subject(rootfs::OP, &image.reference)?;
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
        let mut rootfs = self.step(&spec, &image.reference, layers)?;
        if let Some(last) = last {
            rootfs.moved = match last.key == rootfs.key {
                true => (last.previous.iter())
                    .flat_map(|previous| last.material.changes_from(previous))
                    .collect(),
                // The next build makes it anew, and this is why.
                false => material(&spec).changes_from(&last.material),
            };
        }
        let spec = resolve::spec(&image.reference);
        let top = self.step(&spec, &image.reference, vec![rootfs])?;
        Ok(Some((image, top)))
    }

    fn step(&self, spec: &NodeSpec, detail: &str, inputs: Vec<Step>) -> Result<Step, Error> {
        let key = spec.key();
        let known = self.store().peek_node(&key)?;
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
