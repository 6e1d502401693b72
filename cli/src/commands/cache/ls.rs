//! `microagent cache ls` and `microagent cache du`.

use std::collections::{BTreeMap, BTreeSet};

use microagent_cas::{Digest, GcOptions, Inventory, NodeKey, Output};
use serde::Serialize;

use super::purpose::Purposes;
use crate::commands::format::{ago, bytes, rfc3339};
use crate::commands::pipeline;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    images: Vec<ImageEntry>,
    nodes: Vec<NodeEntry>,
    roots: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageEntry {
    name: Option<String>,
    digest: Option<Digest>,
    /// False for an image that another tool added to the layout; it is never removed.
    cached: bool,
    /// Bytes on disk of the image's manifest, config and layer blobs.
    allocated: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeEntry {
    op: String,
    key: NodeKey,
    purpose: String,
    outputs: BTreeMap<String, Output>,
    /// Length of the outputs in bytes.
    size: u64,
    /// Bytes on disk of the outputs.
    allocated: u64,
    created_at: String,
    last_used: String,
    held_by: BTreeSet<String>,
    /// Whether all outputs exist.
    whole: bool,
}

/// Lists images and nodes.
pub fn ls(settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let pipeline = pipeline::open(settings, termination)?;
    let inventory = pipeline.store().inventory()?;
    let purposes = Purposes::of(pipeline.store(), &inventory)?;
    let mut nodes: Vec<_> = inventory.nodes.iter().collect();
    nodes.sort_by_key(|(key, node)| (std::cmp::Reverse(node.last_used), **key));
    if settings.output.json {
        settings.output.document(&Listing {
            images: images(&inventory),
            nodes: nodes
                .into_iter()
                .map(|(key, node)| {
                    let objects: Vec<_> = Inventory::objects_of(&node.record).collect();
                    NodeEntry {
                        op: node.record.op.clone(),
                        key: *key,
                        purpose: purposes.purpose(key, &node.record),
                        outputs: node.record.outputs.clone(),
                        size: node.record.size,
                        allocated: inventory.allocated(&objects),
                        created_at: node.record.created_at.clone(),
                        last_used: rfc3339(node.last_used),
                        held_by: purposes.holders(&node.record),
                        whole: inventory.is_whole(&node.record),
                    }
                })
                .collect(),
            roots: inventory.roots.keys().cloned().collect(),
        })?;
        return Ok(0);
    }
    let heading = |cells: &[&str]| vec![cells.iter().map(|cell| (*cell).to_owned()).collect()];
    let mut text = String::new();
    let mut rows: Vec<Vec<String>> = heading(&["IMAGE", "DIGEST", "SIZE"]);
    for image in images(&inventory) {
        rows.push(vec![
            image.name.unwrap_or_default(),
            image.digest.map(short).unwrap_or_default(),
            bytes(image.allocated),
        ]);
    }
    if rows.len() > 1 {
        text.push_str(&table(&rows));
        text.push('\n');
    }
    let mut rows: Vec<Vec<String>> = heading(&["OP", "KEY", "SIZE", "USED", "FOR", "HELD BY"]);
    for (key, node) in nodes {
        let objects: Vec<_> = Inventory::objects_of(&node.record).collect();
        let holders = purposes.holders(&node.record);
        rows.push(vec![
            node.record.op.clone(),
            short(*key.digest()),
            bytes(inventory.allocated(&objects)),
            ago(node.last_used),
            purposes.purpose(key, &node.record),
            holders.into_iter().collect::<Vec<_>>().join(", "),
        ]);
    }
    if rows.len() > 1 {
        text.push_str(&table(&rows));
    }
    settings.output.text(&text)?;
    Ok(0)
}

fn images(inventory: &Inventory) -> Vec<ImageEntry> {
    let images = inventory.images.iter().map(|image| ImageEntry {
        name: image.name.clone(),
        digest: image.digest,
        cached: image.cached,
        allocated: inventory.allocated(&image.closure),
    });
    images.collect()
}

fn short(digest: Digest) -> String {
    digest.hex().chars().take(12).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Usage {
    /// Usage by operation; shared data counts for each operation.
    ops: BTreeMap<String, OpUsage>,
    /// Bytes on disk of everything, each file counted once.
    total: u64,
    /// Bytes that a collection can remove at most.
    reclaimable: u64,
    /// Unreferenced bytes.
    garbage: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct OpUsage {
    nodes: u64,
    allocated: u64,
    size: u64,
}

/// Prints the disk usage of the cache.
pub fn du(settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let inventory = store.inventory()?;
    let mut ops: BTreeMap<String, (OpUsage, BTreeSet<Output>)> = BTreeMap::new();
    for node in inventory.nodes.values() {
        let (usage, objects) = ops.entry(node.record.op.clone()).or_default();
        usage.nodes += 1;
        usage.size += node.record.size;
        objects.extend(Inventory::objects_of(&node.record));
    }
    let dry = |max_size| {
        let options = GcOptions {
            max_size,
            dry_run: true,
            ..GcOptions::default()
        };
        store.collect(&options).map(|report| report.freed)
    };
    let usage = Usage {
        ops: (ops.into_iter())
            .map(|(op, (usage, objects))| {
                let allocated = inventory.allocated(&objects);
                (op, OpUsage { allocated, ..usage })
            })
            .collect(),
        total: inventory.allocated(inventory.objects.keys()),
        reclaimable: dry(Some(0))?,
        garbage: dry(None)?,
    };
    if settings.output.json {
        settings.output.document(&usage)?;
        return Ok(0);
    }
    let row = |cells: [String; 4]| cells.to_vec();
    let mut rows = vec![row(["OP", "NODES", "ON DISK", "LENGTH"].map(str::to_owned))];
    for (op, usage) in &usage.ops {
        let (nodes, size) = (usage.nodes.to_string(), bytes(usage.size));
        rows.push(row([op.clone(), nodes, bytes(usage.allocated), size]));
    }
    let total = format!(
        "total {}, reclaimable {}, garbage {}\n",
        bytes(usage.total),
        bytes(usage.reclaimable),
        bytes(usage.garbage)
    );
    settings.output.text(&(table(&rows) + &total))?;
    Ok(0)
}
