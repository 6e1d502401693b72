//! Garbage collection: unreferenced objects are removed at once, cached ones by age and by total
//! size.
//!
//! | | is kept |
//! |---|---|
//! | an object of a root, of the lease of a running process, or of an image that another tool added to the layout | always |
//! | a node and its outputs | until it is unused for too long, or the store is too large and it is among the least recently used |
//! | an image that the pipeline tagged | while all its parts are kept |
//! | any other object, such as of a failed build or a removed node | never |
//!
//! The decision is a pure function ([`plan`]) of an [`Inventory`] that is taken while holding the
//! gate exclusively (lease.rs): builds run concurrently and wait only while it decides and
//! renames. The order of removal is records, names in `index.json`, sparse files, blobs (which
//! include chunk maps), so that a killed collection leaves garbage but no dangling reference.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::file::directory::{self, remove};
use crate::maintenance::inventory::Inventory;
use crate::output::Output;
use crate::record::node::NodeKey;
use crate::store::Store;

/// What to collect in addition to garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcOptions {
    /// The bytes on disk that the store may keep.
    pub max_size: Option<u64>,
    /// Collect nodes unused for at least this long.
    pub unused_for: Option<Duration>,
    /// Report what would be removed, but remove nothing.
    pub dry_run: bool,
}

/// What was removed, or would be for a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Nodes: key and operation.
    pub nodes: Vec<(NodeKey, String)>,
    /// Names in `index.json`.
    pub images: Vec<String>,
    /// Blobs and sparse files, with their bytes on disk.
    pub objects: Vec<(Output, u64)>,
    /// The bytes on disk of `objects`.
    pub freed: u64,
    /// The bytes on disk of the objects kept.
    pub kept: u64,
    /// The bytes of `kept` that cannot be collected: held by roots, leases and images of other
    /// tools.
    pub held: u64,
    /// The number of leftovers: temporary files, locks and leases of dead processes, quarantined
    /// objects, interrupted downloads, stale records.
    pub leftovers: u64,
}

/// What to remove, and the size of what is kept.
#[derive(Debug, Default)]
struct Plan {
    nodes: BTreeSet<NodeKey>,
    images: BTreeSet<String>,
    objects: BTreeSet<Output>,
    kept: u64,
    held: u64,
}

impl Store {
    /// Collects garbage. Builds may run concurrently, in this and in other processes.
    ///
    /// # Errors
    /// When the store cannot be read or something cannot be removed.
    pub fn collect(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let mut report = GcReport::default();
        let mut trash = Vec::new();
        {
            let _gate = self.leases().gate(FlockOperation::LockExclusive)?;
            let dead = self.leases().list()?.1;
            let inventory = self.inventory()?;
            let plan = plan(&inventory, options, SystemTime::now());
            report.describe(&inventory, &plan);
            if options.dry_run {
                return Ok(report);
            }
            for lease in &dead {
                remove(lease)?;
                report.leftovers += 1;
            }
            for key in &plan.nodes {
                remove(&self.node_path(key))?;
            }
            for name in &inventory.broken_nodes {
                remove(&self.layout().dir("nodes").join(name))?;
            }
            self.untag(|name| plan.images.contains(name))?;
            let is_sparse = |object: &&Output| matches!(object, Output::Sparse(_));
            let (sparse, blobs): (Vec<_>, Vec<_>) = plan.objects.iter().partition(is_sparse);
            for object in sparse.into_iter().chain(blobs) {
                trash.push(self.discard(object)?);
            }
        }
        // Without the gate: freeing gigabytes takes long.
        for path in trash {
            remove(&path)?;
        }
        report.leftovers += self.collect_stale(options.max_size.is_some())?;
        let swept = self.sweep()?;
        report.leftovers += swept.temporaries + swept.locks;
        Ok(report)
    }

    /// Moves an object to `tmp/` and returns its new path.
    fn discard(&self, object: &Output) -> Result<PathBuf, StoreError> {
        let from = self.output_path(object);
        let to = self.layout().trash(object);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &from, error))
            }
            _ => Ok(to),
        }
    }

    /// Removes quarantined objects, abandoned downloads (object/partial.rs; all of them when
    /// `for_space`) and stale records (record/known_file.rs, record/subject.rs); returns their
    /// number.
    fn collect_stale(&self, for_space: bool) -> Result<u64, StoreError> {
        let partials = self.remove_stale_partials(for_space)?;
        let mut stale = Vec::new();
        let quarantine = self.layout().dir("quarantine");
        directory::list(&quarantine, |name, _| {
            stale.push(quarantine.join(name));
            Ok(())
        })?;
        stale.extend(self.stale_known_files()?);
        stale.extend(self.stale_subjects()?);
        for path in &stale {
            remove(path)?;
        }
        Ok(partials + stale.len() as u64)
    }
}

impl GcReport {
    fn describe(&mut self, inventory: &Inventory, plan: &Plan) {
        let op = |key: &NodeKey| match inventory.nodes.get(key) {
            Some(node) => node.record.op.clone(),
            None => String::new(),
        };
        self.nodes = plan.nodes.iter().map(|key| (*key, op(key))).collect();
        self.images = plan.images.iter().cloned().collect();
        self.objects = (plan.objects.iter())
            .map(|object| (*object, inventory.allocated([object])))
            .collect();
        self.freed = self.objects.iter().map(|(_, bytes)| bytes).sum();
        self.kept = plan.kept;
        self.held = plan.held;
    }
}

/// Decides what to remove.
fn plan(inventory: &Inventory, options: &GcOptions, now: SystemTime) -> Plan {
    let mut held: BTreeSet<Output> = BTreeSet::new();
    for root in inventory.roots.values() {
        held.extend(root.blobs.iter().flat_map(Output::with_map));
    }
    for (_, leased) in &inventory.leases {
        held.extend(leased.iter().flat_map(Output::with_map));
    }
    for image in inventory.images.iter().filter(|image| !image.cached) {
        held.extend(&image.closure);
    }
    held.retain(|object| inventory.objects.contains_key(object));

    // How many kept nodes need each object; a held object counts as needed once.
    let mut needed: BTreeMap<Output, u32> = held.iter().map(|object| (*object, 1)).collect();
    let mut plan = Plan {
        held: inventory.allocated(&held),
        ..Plan::default()
    };
    let mut evictable = Vec::new();
    for (key, node) in &inventory.nodes {
        if !inventory.is_whole(&node.record) {
            plan.nodes.insert(*key);
            continue;
        }
        let objects: BTreeSet<_> = Inventory::objects_of(&node.record).collect();
        for object in &objects {
            *needed.entry(*object).or_default() += 1;
        }
        // Evicting a node whose objects are all held frees nothing.
        if objects.is_empty() || !objects.is_subset(&held) {
            evictable.push((node.last_used, *key, objects));
        }
    }
    evictable.sort();
    plan.kept = inventory.allocated(needed.keys());
    for (last_used, key, objects) in evictable {
        let idle = now.duration_since(last_used).unwrap_or_default();
        let too_old = options.unused_for.is_some_and(|limit| idle >= limit);
        let too_large = options.max_size.is_some_and(|limit| plan.kept > limit);
        if !too_old && !too_large {
            continue;
        }
        plan.nodes.insert(key);
        for object in objects {
            if let Some(count) = needed.get_mut(&object) {
                *count -= 1;
                if *count == 0 {
                    needed.remove(&object);
                    plan.kept -= inventory.allocated([&object]);
                }
            }
        }
    }
    plan.objects = (inventory.objects.keys())
        .filter(|object| !needed.contains_key(object))
        .copied()
        .collect();
    for image in inventory.images.iter().filter(|image| image.cached) {
        let whole = image
            .closure
            .iter()
            .all(|part| inventory.objects.contains_key(part) && !plan.objects.contains(part));
        if let Some(name) = &image.name
            && !whole
        {
            plan.images.insert(name.clone());
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::lease::LeaseHolder;
    use crate::maintenance::inventory::{KnownImage, KnownNode, ObjectSize};
    use crate::record::node::{NODE_FORMAT, NodeRecord};
    use crate::record::root::{ROOT_FORMAT, RootRecord};

    fn blob(name: &str) -> Output {
        Output::Blob(Digest::of(name.as_bytes()))
    }

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    /// A store of objects of 100 bytes each, and nodes with outputs, used at some second.
    fn inventory(objects: &[&str], nodes: &[(&str, &[&str], u64)]) -> Inventory {
        let mut inventory = Inventory::default();
        for object in objects {
            let size = ObjectSize {
                length: 1000,
                allocated: 100,
            };
            inventory.objects.insert(blob(object), size);
        }
        for (name, outputs, used) in nodes {
            let record = NodeRecord {
                format: NODE_FORMAT,
                op: (*name).to_owned(),
                op_version: 1,
                params: serde_json::Value::Null,
                inputs: Vec::new(),
                platform: None,
                outputs: (outputs.iter())
                    .map(|output| ((*output).to_owned(), blob(output)))
                    .collect(),
                wall_millis: 0,
                size: 0,
                created_at: String::new(),
            };
            let node = KnownNode {
                last_used: at(*used),
                record,
            };
            inventory.nodes.insert(node.record.key(), node);
        }
        inventory
    }

    fn image(name: &str, closure: &[&str], cached: bool) -> KnownImage {
        KnownImage {
            name: Some(name.to_owned()),
            digest: None,
            cached,
            closure: closure.iter().map(|part| blob(part)).collect(),
        }
    }

    fn decide(inventory: &Inventory, options: &GcOptions) -> (Vec<String>, Vec<Output>, u64) {
        let plan = plan(inventory, options, at(1000));
        let mut report = GcReport::default();
        report.describe(inventory, &plan);
        let mut ops: Vec<_> = report.nodes.into_iter().map(|(_, op)| op).collect();
        ops.sort();
        (ops, plan.objects.into_iter().collect(), plan.kept)
    }

    fn sorted(names: &[&str]) -> Vec<Output> {
        let mut outputs: Vec<_> = names.iter().map(|name| blob(name)).collect();
        outputs.sort();
        outputs
    }

    const LIMITED: GcOptions = GcOptions {
        max_size: Some(250),
        unused_for: None,
        dry_run: false,
    };

    #[test]
    fn without_limits_only_unreferenced_objects_are_collected() {
        let store = inventory(&["a", "b", "stray"], &[("x", &["a"], 1), ("y", &["b"], 2)]);
        assert_eq!(
            decide(&store, &GcOptions::default()),
            (vec![], sorted(&["stray"]), 200)
        );
    }

    #[test]
    fn a_node_that_lost_an_output_is_collected_with_its_other_outputs() {
        let store = inventory(&["a"], &[("x", &["a", "lost"], 1)]);
        assert_eq!(
            decide(&store, &GcOptions::default()),
            (vec!["x".to_owned()], sorted(&["a"]), 0)
        );
    }

    #[test]
    fn the_least_recently_used_nodes_are_evicted_until_the_rest_fits() {
        let store = inventory(
            &["a", "b", "c", "d"],
            &[
                ("x", &["a"], 3),
                ("y", &["b"], 1),
                ("z", &["c"], 2),
                ("w", &["d"], 4),
            ],
        );
        assert_eq!(
            decide(&store, &LIMITED),
            (
                vec!["y".to_owned(), "z".to_owned()],
                sorted(&["b", "c"]),
                200
            )
        );
    }

    #[test]
    fn an_object_shared_with_a_more_recent_node_is_kept() {
        let store = inventory(
            &["shared", "b", "c"],
            &[
                ("old", &["shared"], 1),
                ("mid", &["b"], 2),
                ("new", &["shared", "c"], 3),
            ],
        );
        let (nodes, objects, kept) = decide(&store, &LIMITED);
        assert_eq!(nodes, ["mid", "old"]);
        assert_eq!((objects, kept), (sorted(&["b"]), 200));
    }

    #[test]
    fn nodes_unused_for_at_least_the_limit_are_evicted() {
        let store = inventory(&["a", "b"], &[("x", &["a"], 900), ("y", &["b"], 901)]);
        let options = GcOptions {
            unused_for: Some(Duration::from_secs(100)),
            ..GcOptions::default()
        };
        assert_eq!(
            decide(&store, &options),
            (vec!["x".to_owned()], sorted(&["a"]), 100)
        );
    }

    #[test]
    fn roots_leases_and_images_of_other_tools_are_kept() {
        let mut store = inventory(
            &["root", "leased", "foreign", "a"],
            &[("r", &["root"], 1), ("l", &["leased"], 1), ("x", &["a"], 1)],
        );
        let root = RootRecord {
            format: ROOT_FORMAT,
            blobs: vec![blob("root")],
            value: serde_json::Value::Null,
        };
        store.roots.insert("default-kernel".into(), root);
        let holder = LeaseHolder {
            pid: 1,
            since: String::new(),
        };
        store.leases.push((holder, [blob("leased")].into()));
        store.images.push(image("theirs", &["foreign"], false));
        let everything = GcOptions {
            max_size: Some(0),
            unused_for: Some(Duration::ZERO),
            dry_run: false,
        };
        let plan = plan(&store, &everything, at(1000));
        assert_eq!(plan.objects.into_iter().collect::<Vec<_>>(), [blob("a")]);
        assert_eq!((plan.kept, plan.held), (300, 300));
        assert_eq!(plan.nodes.len(), 1, "nodes with held outputs are kept");
    }

    #[test]
    fn a_cached_image_loses_its_name_when_a_part_is_collected() {
        let mut store = inventory(&["manifest", "layer"], &[("fetch", &["layer"], 1)]);
        store
            .images
            .push(image("ours", &["manifest", "layer"], true));
        let plan = plan(&store, &GcOptions::default(), at(1000));
        assert_eq!(plan.images.into_iter().collect::<Vec<_>>(), ["ours"]);
        assert_eq!(
            plan.objects.into_iter().collect::<Vec<_>>(),
            [blob("manifest")]
        );
    }

    #[test]
    fn a_sparse_file_is_kept_with_its_chunk_map() {
        let mut store = inventory(&["map"], &[]);
        let map = Digest::of(b"map");
        let size = ObjectSize {
            length: 1 << 30,
            allocated: 4096,
        };
        store.objects.insert(Output::Sparse(map), size);
        let root = RootRecord {
            format: ROOT_FORMAT,
            blobs: vec![Output::Sparse(map)],
            value: serde_json::Value::Null,
        };
        store.roots.insert("disk".into(), root);
        let plan = plan(&store, &GcOptions::default(), at(1000));
        assert_eq!((plan.objects.len(), plan.held), (0, 4196));
    }
}
