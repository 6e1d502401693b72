//! The store under real conditions: other processes, signals, full disks, other tools.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic, in its own functions too"
)]

mod damage;
mod disk;
mod golden;
mod layout;
mod processes;
mod verify;

use microagent_cas::{Digest, KeyMaterial, NodeKey, Store};

/// A store in a temporary directory.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cas")).unwrap();
    (dir, store)
}

fn material(params: &serde_json::Value) -> KeyMaterial<'_> {
    KeyMaterial {
        op: "test",
        op_version: 1,
        params,
        inputs: &[],
        platform: None,
    }
}

fn key(params: &serde_json::Value) -> NodeKey {
    NodeKey::derive(&material(params))
}

/// The names in a directory of the store, sorted.
fn names(store: &Store, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.root().join(dir)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn blobs(store: &Store) -> Vec<String> {
    names(store, "blobs/sha256")
}

fn hex_of(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}
