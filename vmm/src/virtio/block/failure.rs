//! Reporting requests that failed on the host, once per kind: a guest can cause any number of them,
//! for example on a full disk.

use std::fmt;
use std::io;

use microagent_proto::warning::DiskOperation;

type Report = Box<dyn FnMut(DiskOperation, &io::Error) + Send>;

/// Reports the first failure of each kind of request.
#[derive(Default)]
pub struct Failures {
    reported: Vec<DiskOperation>,
    report: Option<Report>,
}

impl Failures {
    /// Reports to this function; without one, failures are logged.
    pub fn report_to(&mut self, report: impl FnMut(DiskOperation, &io::Error) + Send + 'static) {
        self.report = Some(Box::new(report));
    }

    /// A request of this kind failed. Returns when it was reported.
    pub fn failed(&mut self, operation: DiskOperation, error: &io::Error) {
        if self.reported.contains(&operation) {
            return;
        }
        self.reported.push(operation);
        match &mut self.report {
            Some(report) => report(operation, error),
            None => tracing::warn!(?operation, "a disk request failed on the host: {error}"),
        }
    }
}

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failures({:?})", self.reported)
    }
}
