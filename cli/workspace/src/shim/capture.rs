//! Capturing a quarantined workspace on a thread, so that it can be killed meanwhile.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use super::message::Event;
use super::protocol::Reply;
use crate::dir::WorkspaceDir;
use crate::quarantine::{Facts, ProcessFacts, capture};

/// The most processes of which facts are kept.
const MAX_PROCESSES: usize = 64;

/// A capture that is being made, or was.
#[derive(Debug, Default)]
pub struct Capture {
    /// It is complete.
    pub done: bool,
    /// Who waits for it.
    pub waiting: Vec<Sender<Reply>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins to capture `directory`, unless that has begun. `events` receives [`Event::Captured`].
    ///
    /// # Errors
    /// When the thread cannot be created.
    pub fn begin(
        &mut self,
        directory: &WorkspaceDir,
        facts: impl FnOnce() -> Facts,
        events: Sender<Event>,
    ) -> io::Result<()> {
        if self.thread.is_some() {
            return Ok(());
        }
        let (directory, stop) = (directory.clone(), Arc::clone(&self.stop));
        let facts = facts();
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let captured = capture(&directory, facts, &stop);
                // The main thread ends with the process.
                let _ = events.send(Event::Captured(captured));
            })?;
        self.thread = Some(thread);
        Ok(())
    }

    /// It has ended with this result.
    pub fn end(&mut self, captured: &io::Result<PathBuf>) {
        self.done = captured.is_ok();
        self.join();
    }

    /// Stops it, as the VM has ended.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// This process, and those that it has started.
pub fn processes() -> Vec<ProcessFacts> {
    let mut pending = vec![std::process::id()];
    let mut found = Vec::new();
    while let Some(pid) = pending.pop().filter(|_| found.len() < MAX_PROCESSES) {
        let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let command = of("cmdline");
        let words = command.split(|&byte| byte == 0);
        let words = words.filter(|word| !word.is_empty());
        found.push(ProcessFacts {
            pid,
            command: words.map(|word| text(word.to_vec())).collect(),
            status: text(of("status")),
        });
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            pending.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_processes_are_this_one_and_its_children() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let found = processes();
        assert_eq!(found[0].pid, std::process::id());
        let cat = found
            .iter()
            .find(|process| process.pid == child.id())
            .unwrap();
        assert!(
            cat.status
                .contains(&format!("PPid:\t{}\n", std::process::id()))
        );
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
