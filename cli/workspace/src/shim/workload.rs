//! The workload of a workspace: its session with the agent, and its output.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;

use microagent_proto::agent::Exec;

use super::message::Event;
use crate::log::BoundedLog;
use crate::machine::session::{self, Control, Sink};

/// How much of the output is kept, in bytes.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    control: Control,
}

impl Workload {
    /// Executes `request` on `stream`, or goes on with the one that runs if there is no request; its output goes
    /// to the file `output`. `events` receives [`Event::WorkloadStarted`] and [`Event::WorkloadEnded`].
    ///
    /// # Errors
    /// When the output or the thread cannot be created.
    pub fn start(
        stream: UnixStream,
        request: Option<Exec>,
        output: &Path,
        events: Sender<Event>,
    ) -> io::Result<Workload> {
        let log = BoundedLog::open(output, OUTPUT_LIMIT)?;
        let control = Control::new(&stream)?;
        thread::Builder::new()
            .name("workload".into())
            .spawn(move || {
                let mut sink = Output {
                    log,
                    events: events.clone(),
                };
                let end = match request {
                    Some(request) => session::exec(stream, request, &mut sink),
                    None => session::take_over(stream, &mut sink),
                };
                // The main thread ends with the process.
                let _ = events.send(Event::WorkloadEnded(end));
            })?;
        Ok(Workload { control })
    }

    /// Sends a signal to its process group. A workload that has ended receives none.
    pub fn signal(&mut self, number: i32) {
        if let Err(error) = self.control.signal_group(number) {
            tracing::debug!(%error, "the workload cannot be signalled");
        }
    }
}

/// What the workload writes.
struct Output {
    log: BoundedLog,
    events: Sender<Event>,
}

impl Output {
    /// A full disk must not stop the workload.
    fn append(&mut self, bytes: &[u8]) {
        if let Err(error) = self.log.append(bytes) {
            tracing::warn!(%error, "the output of the workload cannot be kept");
        }
    }
}

impl Sink for Output {
    fn stdout(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes);
        Ok(())
    }

    fn stderr(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes);
        Ok(())
    }

    fn started(&mut self, _: &Control) {
        let _ = self.events.send(Event::WorkloadStarted);
    }
}
