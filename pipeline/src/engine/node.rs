//! The engine: a node is looked up by its key, or computed once and remembered.
//!
//! The key covers everything that the output depends on ([`microagent_cas::NodeKey`]); whoever
//! writes an op raises its version whenever its bytes could change. Two processes that want the
//! same node at once wait for one computation: the second takes the lock after the first has
//! recorded the node, and finds it.
//!
//! A computation that fails records nothing. Blobs it had finished by then stay; they are right,
//! whoever needs them next finds them.

use std::collections::BTreeMap;
use std::time::Instant;

use microagent_cas::{Digest, Input, KeyMaterial, NodeKey, NodeRecord, Output, StoreError};

use crate::error::Error;
use crate::pipeline::{NodeReport, Pipeline};

/// What a node is: everything its output depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// The operation, one lower camel case word.
    pub op: &'static str,
    /// Rises whenever the bytes the operation produces could change.
    pub op_version: u32,
    /// Parameters: integers, strings, booleans, arrays and objects, no fractions.
    pub params: serde_json::Value,
    /// Inputs by what they are to the operation, in the operation's own order.
    pub inputs: Vec<(String, Digest)>,
    /// The platform, such as `linux/amd64`, where the output depends on it.
    pub platform: Option<String>,
}

/// What a node has made, by name.
pub type Outputs = BTreeMap<String, Output>;

/// A node, found or computed.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeOutcome {
    /// Its name.
    pub key: NodeKey,
    /// What is remembered of it. Every output is in the store.
    pub record: NodeRecord,
    /// Whether it was there already; a node that another process computed while this one waited
    /// was there.
    pub hit: bool,
}

impl Pipeline {
    /// Looks a node up, or computes and records it.
    ///
    /// `compute` must put every output it names into the store. It runs while this process holds
    /// the node's lock, so it must not ask for the same node again.
    ///
    /// # Errors
    /// Whatever `compute` says, and [`Error::Store`].
    pub fn node(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, Error>,
    ) -> Result<NodeOutcome, Error> {
        let started = Instant::now();
        let (spec, inputs) = spec.split();
        let key = NodeKey::derive(&spec.material(&inputs));
        if let Some(record) = self.store().node(&key)? {
            return Ok(self.answer(key, record, true, started));
        }
        let _lock = self.store().lock_node(&key)?;
        if let Some(record) = self.store().node(&key)? {
            return Ok(self.answer(key, record, true, started));
        }
        let computing = Instant::now();
        let record = self.remember(&spec.material(&inputs), compute()?, computing)?;
        Ok(self.answer(key, record, false, started))
    }

    /// Does what must be done anew each time, because its answer is not a function of its inputs:
    /// asking the outside world. What came out is recorded, never a hit. A record that says the same
    /// already stays as it is, so that a run with nothing new writes (and syncs) nothing.
    ///
    /// # Errors
    /// Whatever `compute` says, and [`Error::Store`].
    pub fn observe(
        &self,
        spec: NodeSpec,
        compute: impl FnOnce() -> Result<Outputs, Error>,
    ) -> Result<NodeOutcome, Error> {
        let started = Instant::now();
        let (spec, inputs) = spec.split();
        let outputs = compute()?;
        let key = NodeKey::derive(&spec.material(&inputs));
        let record = match self.store().node(&key)? {
            Some(known) if known.outputs == outputs => known,
            _ => self.remember(&spec.material(&inputs), outputs, started)?,
        };
        Ok(self.answer(key, record, false, started))
    }

    /// Records what was observed, without a line in the report.
    pub(crate) fn observe_quietly(
        &self,
        spec: NodeSpec,
        outputs: Outputs,
    ) -> Result<NodeRecord, Error> {
        let (spec, inputs) = spec.split();
        self.remember(&spec.material(&inputs), outputs, Instant::now())
    }

    fn remember(
        &self,
        material: &KeyMaterial<'_>,
        outputs: Outputs,
        since: Instant,
    ) -> Result<NodeRecord, Error> {
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = NodeRecord::new(self.store(), material, outputs, millis)?;
        self.store().record_node(&record)?;
        Ok(record)
    }

    fn answer(&self, key: NodeKey, record: NodeRecord, hit: bool, since: Instant) -> NodeOutcome {
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
    pub fn output(&self, name: &str) -> Result<Output, Error> {
        let output = self.record.outputs.get(name).copied();
        Ok(output.ok_or_else(|| StoreError::Corrupt {
            path: format!("{}.json", self.key.digest().hex()).into(),
            why: format!("the record of this {} node lacks {name}", self.record.op),
        })?)
    }
}

impl NodeSpec {
    /// The name of this node.
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

/// The output that is shown for a node: the one named like its op, else the first by name.
fn main_output(record: &NodeRecord) -> Option<Digest> {
    record
        .outputs
        .get(&record.op)
        .or_else(|| record.outputs.values().next())
        .map(Output::digest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use microagent_cas::Store;

    use super::*;
    use crate::engine::progress::Silent;

    fn pipeline() -> (tempfile::TempDir, Pipeline) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        (dir, Pipeline::new(store, Arc::new(Silent)))
    }

    fn spec() -> NodeSpec {
        NodeSpec {
            op: "double",
            op_version: 1,
            params: serde_json::json!({"times": 2}),
            inputs: vec![("number".into(), Digest::of(b"21"))],
            platform: None,
        }
    }

    fn outputs(pipeline: &Pipeline, bytes: &[u8]) -> Result<Outputs, Error> {
        let output = pipeline.store().put_bytes(bytes)?.into();
        Ok([("double".to_owned(), output)].into())
    }

    #[test]
    fn a_node_is_computed_once_and_then_found() {
        let (_dir, pipeline) = pipeline();
        let first = pipeline.node(spec(), || outputs(&pipeline, b"42")).unwrap();
        let second = pipeline.node(spec(), || panic!("it was there")).unwrap();
        assert!(!first.hit && second.hit);
        assert_eq!(first.record, second.record);
        assert_eq!(first.record.size, 2);
        let reports = pipeline.reports();
        assert_eq!(
            reports.iter().map(|report| report.hit).collect::<Vec<_>>(),
            [false, true]
        );
        assert_eq!(reports[1].output, Some(Digest::of(b"42")));
    }

    #[test]
    fn every_part_of_the_spec_is_part_of_the_key() {
        let (_dir, pipeline) = pipeline();
        let run = |spec| pipeline.node(spec, || outputs(&pipeline, b"42")).unwrap();
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
        let (_dir, pipeline) = pipeline();
        let unknown = Digest::of(b"never stored");
        let phantom = pipeline.node(
            spec(),
            || Ok([("double".to_owned(), unknown.into())].into()),
        );
        assert!(matches!(phantom, Err(Error::Store(_))));
        assert!(
            !pipeline
                .node(spec(), || outputs(&pipeline, b"42"))
                .unwrap()
                .hit
        );
    }

    #[test]
    fn a_lost_or_truncated_output_is_computed_again() {
        let (_dir, pipeline) = pipeline();
        let run = || pipeline.node(spec(), || outputs(&pipeline, b"42")).unwrap();
        run();
        let blob = pipeline.store().blob_path(&Digest::of(b"42"));
        std::fs::remove_file(&blob).unwrap();
        assert!(!run().hit);
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(&blob, b"4").unwrap();
        assert!(!run().hit);
        assert_eq!(std::fs::read(&blob).unwrap(), b"42");
    }

    #[test]
    fn an_observation_is_recorded_and_never_a_hit() {
        let (_dir, pipeline) = pipeline();
        let first = pipeline
            .observe(spec(), || outputs(&pipeline, b"42"))
            .unwrap();
        let second = pipeline
            .observe(spec(), || outputs(&pipeline, b"43"))
            .unwrap();
        assert!(!first.hit && !second.hit);
        assert_eq!(
            pipeline.store().node(&first.key).unwrap(),
            Some(second.record)
        );
    }

    #[test]
    fn threads_that_want_one_node_at_once_compute_it_once() {
        let (_dir, pipeline) = pipeline();
        let computed = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let compute = || {
                        computed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        outputs(&pipeline, b"42")
                    };
                    pipeline.node(spec(), compute).unwrap();
                });
            }
        });
        assert_eq!(computed.into_inner(), 1);
    }
}
