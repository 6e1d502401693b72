//! Ports of the host that the guest can connect to.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::net::UnixStream;

/// Takes the host's end of a new connection. Called on the device's thread, so it hands the stream
/// on and returns.
pub type Service = Box<dyn FnMut(UnixStream) + Send>;

/// Ports of the host that the guest can connect to; all others refuse.
#[derive(Default)]
pub struct Services(BTreeMap<u32, Service>);

impl Services {
    /// No ports.
    pub fn new() -> Services {
        Services::default()
    }

    /// Also this port, whose connections go to `service`.
    #[must_use]
    pub fn with(mut self, port: u32, service: impl FnMut(UnixStream) + Send + 'static) -> Services {
        self.0.insert(port, Box::new(service));
        self
    }

    /// Begins a stream to the service on this port; our end of it, or `None` when there is no such
    /// service or the host has no descriptors left.
    pub(super) fn open(&mut self, port: u32) -> Option<UnixStream> {
        let service = self.0.get_mut(&port)?;
        let (ours, theirs) = UnixStream::pair()
            .inspect_err(|error| tracing::warn!("a vsock connection was refused: {error}"))
            .ok()?;
        service(theirs);
        Some(ours)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
