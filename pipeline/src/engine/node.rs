//! Nodes: each is looked up by its key, or computed once and recorded.
//!
//! The key covers everything that the output depends on ([`microagent_cas::NodeKey`]). The version
//! of an operation must rise whenever its output could change for the same inputs. If two processes
//! request the same node, it is computed once: the second process waits for the node's lock and
//! then finds the record.
//!
//! A computation that fails records nothing. The blobs that it completed stay in the store; their
//! content is verified, so a later computation can use them.

use std::collections::BTreeMap;
use std::time::Instant;

use microagent_cas::{Digest, Input, KeyMaterial, NodeKey, NodeRecord, Output, StoreError};

use super::{Engine, NodeReport};

/// Everything that the output of a node depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// The operation, in lower camel case.
    pub op: &'static str,
    /// The operation's version; it rises whenever the output could change for the same inputs.
    pub op_version: u32,
    /// Parameters: integers, strings, booleans, arrays and objects, but no fractions.
    pub params: serde_json::Value,
    /// Named inputs, in an order that the operation defines.
    pub inputs: Vec<(String, Digest)>,
    /// The platform, such as `linux/amd64`, if the output depends on it.
    pub platform: Option<String>,
}

/// The outputs of a node, by name.
pub type Outputs = BTreeMap<String, Output>;

/// A node, found or computed.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeOutcome {
    /// Its key.
    pub key: NodeKey,
    /// Its record. Every output is in the store.
    pub record: NodeRecord,
    /// Whether it was found rather than computed. A node that another process computed while this
    /// one waited counts as found.
    pub hit: bool,
}

impl Engine {
    /// Looks a node up, or computes and records it.
    ///
    /// `compute` must put every output it names into the store. It runs while this process holds
    /// the node's lock, so it must not request the same node again.
    ///
    /// # Errors
    /// Those of `compute` and of the store.
    pub(crate) fn node<E: From<StoreError>>(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, E>,
    ) -> Result<NodeOutcome, E> {
        let started = Instant::now();
        let (spec, inputs) = spec.split();
        let key = NodeKey::derive(&spec.material(&inputs));
        if let Some(record) = self.look_up(&key)? {
            return Ok(self.outcome(key, record, true, started));
        }
        let _lock = self.store().lock_node(&key)?;
        if let Some(record) = self.look_up(&key)? {
            return Ok(self.outcome(key, record, true, started));
        }
        let computing = Instant::now();
        let record = self.record(&spec.material(&inputs), compute()?, computing)?;
        Ok(self.outcome(key, record, false, started))
    }

    /// Looks a node up; `None` when it is not recorded, and nothing is reported.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn find(&self, spec: NodeSpec) -> Result<Option<NodeOutcome>, StoreError> {
        let started = Instant::now();
        let key = spec.key();
        let found = self.look_up(&key)?;
        Ok(found.map(|record| self.outcome(key, record, true, started)))
    }

    /// Computes a node whose output is not a function of its inputs (it asks the outside world),
    /// and records the result; never a hit. A record with the same outputs is kept, so a run that
    /// observes nothing new writes (and syncs) nothing.
    ///
    /// # Errors
    /// Those of `compute` and of the store.
    pub(crate) fn observe<E: From<StoreError>>(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, E>,
    ) -> Result<NodeOutcome, E> {
        let started = Instant::now();
        let (spec, inputs) = spec.split();
        let outputs = compute()?;
        let key = NodeKey::derive(&spec.material(&inputs));
        let record = match self.store().node(&key)? {
            Some(known) if known.outputs == outputs => known,
            _ => self.record(&spec.material(&inputs), outputs, started)?,
        };
        Ok(self.outcome(key, record, false, started))
    }

    /// Records an observation without an entry in the report.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn observe_quietly(
        &self,
        spec: NodeSpec,
        outputs: Outputs,
    ) -> Result<NodeRecord, StoreError> {
        let (spec, inputs) = spec.split();
        self.record(&spec.material(&inputs), outputs, Instant::now())
    }

    fn look_up(&self, key: &NodeKey) -> Result<Option<NodeRecord>, StoreError> {
        let record = self.store().node(key)?;
        self.report_damage();
        Ok(record)
    }

    fn record(
        &self,
        material: &KeyMaterial<'_>,
        outputs: Outputs,
        since: Instant,
    ) -> Result<NodeRecord, StoreError> {
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = NodeRecord::new(self.store(), material, outputs, millis)?;
        self.store().record_node(&record)?;
        Ok(record)
    }

    fn outcome(&self, key: NodeKey, record: NodeRecord, hit: bool, since: Instant) -> NodeOutcome {
        self.report(NodeReport {
            op: record.op.clone(),
            key,
            output: main_output(&record),
            hit,
            millis: since.elapsed().as_secs_f64() * 1000.0,
        });
        NodeOutcome { key, record, hit }
    }
}

impl NodeOutcome {
    /// An output by name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the record does not have it.
    pub fn output(&self, name: &str) -> Result<Output, StoreError> {
        let output = self.record.outputs.get(name).copied();
        output.ok_or_else(|| StoreError::Corrupt {
            path: format!("{}.json", self.key.digest().hex()).into(),
            why: format!("the record of this {} node lacks {name}", self.record.op),
        })
    }
}

impl NodeSpec {
    /// The key of this node.
    pub fn key(&self) -> NodeKey {
        let (spec, inputs) = self.clone().split();
        NodeKey::derive(&spec.material(&inputs))
    }

    fn split(mut self) -> (NodeSpec, Vec<Input>) {
        let inputs = std::mem::take(&mut self.inputs);
        (
            self,
            inputs
                .into_iter()
                .map(|(name, digest)| Input { name, digest })
                .collect(),
        )
    }

    fn material<'a>(&'a self, inputs: &'a [Input]) -> KeyMaterial<'a> {
        KeyMaterial {
            op: self.op,
            op_version: self.op_version,
            params: &self.params,
            inputs,
            platform: self.platform.as_deref(),
        }
    }
}

/// The output to report for a node: the one named after its operation, or else the first by name.
fn main_output(record: &NodeRecord) -> Option<Digest> {
    record
        .outputs
        .get(&record.op)
        .or_else(|| record.outputs.values().next())
        .map(Output::digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::for_test;

    fn spec() -> NodeSpec {
        NodeSpec {
            op: "double",
            op_version: 1,
            params: serde_json::json!({"times": 2}),
            inputs: vec![("number".into(), Digest::of(b"21"))],
            platform: None,
        }
    }

    fn outputs(engine: &Engine, bytes: &[u8]) -> Result<Outputs, StoreError> {
        let output = engine.store().put_bytes(bytes)?.into();
        Ok([("double".to_owned(), output)].into())
    }

    #[test]
    fn a_node_is_computed_once_and_then_found() {
        let (_dir, engine) = for_test();
        let first = engine.node(spec(), || outputs(&engine, b"42")).unwrap();
        let second = engine
            .node(spec(), || -> Result<_, StoreError> {
                panic!("it is recorded")
            })
            .unwrap();
        assert!(!first.hit && second.hit);
        assert_eq!(first.record, second.record);
        assert_eq!(first.record.size, 2);
        let reports = engine.reports();
        assert_eq!(
            reports.iter().map(|report| report.hit).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(reports[1].output, Some(Digest::of(b"42")));
    }

    #[test]
    fn every_part_of_the_spec_is_part_of_the_key() {
        let (_dir, engine) = for_test();
        let run = |spec| engine.node(spec, || outputs(&engine, b"42")).unwrap();
        run(spec());
        let version = NodeSpec {
            op_version: 2,
            ..spec()
        };
        let params = NodeSpec {
            params: serde_json::json!({"times": 3}),
            ..spec()
        };
        let named = NodeSpec {
            inputs: vec![("digit".into(), Digest::of(b"21"))],
            ..spec()
        };
        let input = NodeSpec {
            inputs: vec![("number".into(), Digest::of(b"7"))],
            ..spec()
        };
        let platform = NodeSpec {
            platform: Some("linux/amd64".into()),
            ..spec()
        };
        for other in [version, params, named, input, platform] {
            assert!(!run(other.clone()).hit, "{other:?}");
        }
    }

    #[test]
    fn a_failed_computation_records_nothing() {
        let (_dir, engine) = for_test();
        let unknown = Digest::of(b"never stored");
        let phantom: Result<_, StoreError> =
            engine.node(
                spec(),
                || Ok([("double".to_owned(), unknown.into())].into()),
            );
        assert!(phantom.is_err());
        assert!(!engine.node(spec(), || outputs(&engine, b"42")).unwrap().hit);
    }

    #[test]
    fn a_missing_or_truncated_output_is_computed_again() {
        let (_dir, engine) = for_test();
        let run = || engine.node(spec(), || outputs(&engine, b"42")).unwrap();
        run();
        let blob = engine.store().blob_path(&Digest::of(b"42"));
        std::fs::remove_file(&blob).unwrap();
        assert!(!run().hit);
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(&blob, b"4").unwrap();
        assert!(!run().hit);
        assert_eq!(std::fs::read(&blob).unwrap(), b"42");
    }

    #[test]
    fn an_observation_is_recorded_and_never_a_hit() {
        let (_dir, engine) = for_test();
        let first = engine.observe(spec(), || outputs(&engine, b"42")).unwrap();
        let second = engine.observe(spec(), || outputs(&engine, b"43")).unwrap();
        assert!(!first.hit && !second.hit);
        assert_eq!(
            engine.store().node(&first.key).unwrap(),
            Some(second.record)
        );
    }

    #[test]
    fn concurrent_requests_compute_a_node_once() {
        let (_dir, engine) = for_test();
        let computed = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let compute = || {
                        computed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        outputs(&engine, b"42")
                    };
                    engine.node(spec(), compute).unwrap();
                });
            }
        });
        assert_eq!(computed.into_inner(), 1);
    }
}
