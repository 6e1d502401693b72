//! The processor of this host that a lab runs on, reserved across all test processes.
//!
//! All threads of a lab's QEMU run on one processor, because QEMU's emulation of `VMRUN` and of
//! exits from a guest (target/i386/tcg/sysemu/svm_helper.c) changes `interrupt_request` without an
//! atomic instruction and without the lock under which other threads change it. About once in
//! eighty boots of a guest an interrupt of the lab was lost that way, and the lab then slept
//! forever with its timer's interrupt pending. On one processor a single instruction is atomic.
//!
//! Two labs on one processor would each take twice as long while another processor idles. So each
//! processor is a lock file in the cache, and a lab waits for the first one that is free.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::{Error, cache};

/// A processor that no other lab uses, until this is dropped.
#[derive(Debug)]
pub(super) struct Processor {
    /// Its number, as `taskset -c` takes it.
    pub number: usize,
    _lock: File,
}

/// Waits for a processor that this process may use and no other lab does.
pub(super) fn reserve() -> Result<Processor, Error> {
    let allowed =
        sched_getaffinity(None).map_err(|error| Error::file("/proc/self")(error.into()))?;
    let allowed = (0..CpuSet::MAX_CPU).filter(|&number| allowed.is_set(number));
    reserve_one(&cache::root()?, &allowed.collect::<Vec<_>>())
}

fn reserve_one(directory: &Path, numbers: &[usize]) -> Result<Processor, Error> {
    let mut processors = Vec::new();
    for &number in numbers {
        let path = directory.join(format!("processor-{number}.lock"));
        let lock = File::create(&path).map_err(Error::file(&path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(Processor {
                number,
                _lock: lock,
            });
        }
        processors.push(Processor {
            number,
            _lock: lock,
        });
    }
    // flock(2) waits for a single file, so there is a thread for each. Later threads find the
    // receiver gone and release their lock.
    let (free, first) = mpsc::channel();
    for processor in processors {
        let free = free.clone();
        thread::spawn(move || {
            if flock(&processor._lock, FlockOperation::LockExclusive).is_ok() {
                let _ = free.send(processor);
            }
        });
    }
    drop(free);
    first.recv().map_err(|_| Error::Unexpected {
        what: "no processor could be locked".to_owned(),
        got: directory.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lab_gets_a_free_processor_and_the_third_of_two_waits() {
        let directory = tempfile::tempdir().unwrap();
        let first = reserve_one(directory.path(), &[4, 7]).unwrap();
        let second = reserve_one(directory.path(), &[4, 7]).unwrap();
        assert_eq!((first.number, second.number), (4, 7));
        thread::scope(|scope| {
            let third = scope.spawn(|| reserve_one(directory.path(), &[4, 7]).unwrap().number);
            drop(second);
            assert_eq!(third.join().unwrap(), 7);
        });
        drop(first);
        assert_eq!(reserve_one(directory.path(), &[4, 7]).unwrap().number, 4);
    }
}
