//! The host ports that the guest can connect to.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::net::UnixStream;

/// Accepts the host's end of a new connection. Called on the device's thread, so it must not block.
pub type Service = Box<dyn FnMut(UnixStream) + Send>;

/// The host ports that the guest can connect to. All others refuse connections.
#[derive(Default)]
pub struct Services(BTreeMap<u32, Service>);

impl Services {
    /// No ports.
    pub fn new() -> Services {
        Services::default()
    }

    /// Adds a port whose connections are passed to `service`.
    #[must_use]
    pub fn with(mut self, port: u32, service: impl FnMut(UnixStream) + Send + 'static) -> Services {
        self.0.insert(port, Box::new(service));
        self
    }

    /// Connects to the service on this port; the device's end of the stream, or `None` if there is
    /// no such service or the host is out of file descriptors.
    pub(super) fn open(&mut self, port: u32) -> Option<UnixStream> {
        let service = self.0.get_mut(&port)?;
        let (ours, theirs) = UnixStream::pair()
            .inspect_err(|error| tracing::warn!("vsock connection refused: {error}"))
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
