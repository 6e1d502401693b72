//! Leases: what living processes use, and garbage collection must leave alone.
//!
//! A process that opened a store has at most one lease, `leases/<pid>-<random>`: a file that is
//! locked (flock(2)) for as long as the process has the store open, so a lease ends with its
//! process however that ends. It says who holds it on its first line, then one object a line.
//!
//! An object is held before its presence is looked at, and before it is linked into place. Both
//! happen under the shared side of the gate `locks/gc`, whose exclusive side a collection holds
//! from reading the leases to its last removal: so an object that was seen is there to stay, and
//! one that a collection removed was not seen.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::file::lock::{self, LockFile};
use crate::file::read;
use crate::output::Output;

/// Who holds a lease: for people, never for a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseHolder {
    /// The process.
    pub pid: u32,
    /// When it took the lease: RFC 3339, UTC.
    pub since: String,
}

/// The leases of a store, and the one of this process.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    gate: PathBuf,
    own: Mutex<Option<Lease>>,
}

/// The lease of this process; removed when the last handle to the store is dropped.
#[derive(Debug)]
struct Lease {
    file: File,
    path: PathBuf,
    held: HashSet<Output>,
}

/// A lease of a living process, read.
#[derive(Debug)]
pub(crate) struct LeaseRecord {
    pub(crate) holder: LeaseHolder,
    pub(crate) held: Vec<Output>,
}

impl Lease {
    fn create(dir: &Path) -> Result<Lease, StoreError> {
        let failed = |error| StoreError::io("create a lease in", dir, error);
        let named = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .rand_bytes(8)
            .tempfile_in(dir)
            .map_err(failed)?;
        lock::flock(named.as_file(), FlockOperation::LockExclusive)
            .map_err(|error| StoreError::io("lock", named.path(), error))?;
        let (mut file, path) = named.keep().map_err(|error| failed(error.error))?;
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        let holder = LeaseHolder {
            pid: std::process::id(),
            since: now.to_string(),
        };
        let line = serde_json::to_string(&holder)
            .map_err(|error| StoreError::io("encode", &path, io::Error::from(error)))?;
        writeln!(file, "{line}").map_err(|error| StoreError::io("write to", &path, error))?;
        Ok(Lease {
            file,
            path,
            held: HashSet::new(),
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Left behind, it is not locked any more and counts as none.
        let _ = fs::remove_file(&self.path);
    }
}

impl Leases {
    pub(crate) fn new(dir: PathBuf, gate: PathBuf) -> Leases {
        Leases {
            dir,
            gate,
            own: Mutex::new(None),
        }
    }

    /// Waits for the gate: shared to hold an object, exclusive to collect.
    pub(crate) fn gate(&self, operation: FlockOperation) -> Result<LockFile, StoreError> {
        LockFile::gate(self.gate.clone(), operation)
    }

    /// Adds objects to the lease of this process, which is created with the first of them.
    pub(crate) fn hold(&self, outputs: &[Output]) -> Result<(), StoreError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let new = |output: &&Output| match &*own {
            Some(lease) => !lease.held.contains(output),
            None => true,
        };
        let wanted: Vec<Output> = outputs.iter().filter(new).copied().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let _gate = self.gate(FlockOperation::LockShared)?;
        let lease = match &mut *own {
            Some(lease) => lease,
            none => none.insert(Lease::create(&self.dir)?),
        };
        let lines: String = wanted.iter().map(|output| format!("{output}\n")).collect();
        lease
            .file
            .write_all(lines.as_bytes())
            .map_err(|error| StoreError::io("write to", &lease.path, error))?;
        lease.held.extend(wanted);
        Ok(())
    }

    /// Removes the leases of dead processes, unless somebody is taking one or collecting just now.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        if let Some(_gate) = LockFile::try_gate(self.gate.clone())? {
            for path in self.list()?.1 {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// The leases of living processes, this one's included, and the files of dead ones. What is
    /// learnt stays true, and what is dead stays dead, while the caller holds the exclusive side
    /// of the gate.
    pub(crate) fn list(&self) -> Result<(Vec<LeaseRecord>, Vec<PathBuf>), StoreError> {
        let dir = &self.dir;
        let mut living = Vec::new();
        let mut dead = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| StoreError::io("list", dir, error))? {
            let path = entry
                .map_err(|error| StoreError::io("list", dir, error))?
                .path();
            let Some(file) = read::open_if_present(&path)? else {
                continue;
            };
            if lock::try_exclusive(&file).map_err(|error| StoreError::io("lock", &path, error))? {
                dead.push(path);
                continue;
            }
            living.push(parse(&file, &path)?);
        }
        Ok((living, dead))
    }
}

/// Reads a lease. The end of the last line may be on its way still: its object was not promised.
fn parse(file: &File, path: &Path) -> Result<LeaseRecord, StoreError> {
    let failed = |error| StoreError::io("read", path, error);
    let mut lines = BufReader::new(file).lines();
    let holder = match lines.next().transpose().map_err(failed)? {
        Some(line) => serde_json::from_str(&line).unwrap_or_else(|_| unknown_holder()),
        None => unknown_holder(),
    };
    let mut held = Vec::new();
    for line in lines {
        held.extend(line.map_err(failed)?.parse::<Output>());
    }
    Ok(LeaseRecord { holder, held })
}

fn unknown_holder() -> LeaseHolder {
    LeaseHolder {
        pid: 0,
        since: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_of_a_dead_process_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("leases/1-left");
        fs::create_dir(dir.path().join("leases")).unwrap();
        fs::write(&left, "{}\nsha256:00\n").unwrap();
        let leases = Leases::new(dir.path().join("leases"), dir.path().join("gate"));
        let (living, dead) = leases.list().unwrap();
        assert_eq!((living.len(), dead), (0, vec![left]));
    }
}
