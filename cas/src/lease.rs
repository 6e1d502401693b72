//! Leases: objects in use by running processes, which garbage collection must keep.
//!
//! A process that opened a store has at most one lease, `leases/<pid>-<random>`: a file that is
//! locked (flock(2)) while the process has the store open, so the lease ends with the process.
//! Its first line identifies the holder; each further line is an object.
//!
//! A process holds an object before it checks whether the object exists, and before it links the
//! object into place. Adding to a lease takes the gate `locks/gc` shared; a collection takes it
//! exclusively from reading the leases to its last removal. So an object that a process has seen
//! is not removed, and an object that a collection removed has not been seen.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::file::lock::{self, LockFile};
use crate::output::Output;

/// The holder of a lease. Informational: no decision depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseHolder {
    /// The process id.
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

/// The lease of this process, removed when the last handle to the store is dropped.
#[derive(Debug)]
struct Lease {
    file: File,
    path: PathBuf,
    held: HashSet<Output>,
}

/// The content of the lease of a running process.
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
        // If removal fails, the file is no longer locked and does not count as a lease.
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

    /// Waits for the gate: shared to hold objects, exclusive to collect.
    pub(crate) fn gate(&self, operation: FlockOperation) -> Result<LockFile, StoreError> {
        LockFile::gate(self.gate.clone(), operation)
    }

    /// Adds objects to the lease of this process, which the first call creates.
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

    /// Removes the leases of dead processes; does nothing while the gate is held.
    pub(crate) fn sweep(&self) -> Result<(), StoreError> {
        if let Some(_gate) = LockFile::try_gate(self.gate.clone())? {
            for path in self.list()?.1 {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// The leases of running processes, including this one, and the lease files of dead ones. The
    /// result stays valid while the caller holds the gate exclusively.
    pub(crate) fn list(&self) -> Result<(Vec<LeaseRecord>, Vec<PathBuf>), StoreError> {
        let dir = &self.dir;
        let mut living = Vec::new();
        let mut dead = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| StoreError::io("list", dir, error))? {
            let path = entry
                .map_err(|error| StoreError::io("list", dir, error))?
                .path();
            let Some(file) = lock::open_existing(&path)? else {
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

/// Reads a lease. An incomplete last line is ignored: its object is not held yet.
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
    fn an_unlocked_lease_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("leases/1-left");
        fs::create_dir(dir.path().join("leases")).unwrap();
        fs::write(&left, "{}\nsha256:00\n").unwrap();
        let leases = Leases::new(dir.path().join("leases"), dir.path().join("gate"));
        let (living, dead) = leases.list().unwrap();
        assert_eq!((living.len(), dead), (0, vec![left]));
    }
}
