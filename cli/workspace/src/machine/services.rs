//! What the guest reaches on the host over vsock, by port.

use std::fmt;
use std::os::unix::net::UnixStream;

/// Takes a stream of the guest. It must not block.
type Service = Box<dyn FnMut(UnixStream) + Send>;

/// Services of the host.
#[derive(Default)]
pub struct Services(Vec<(u32, Service)>);

impl Services {
    /// Adds the service of a port.
    #[must_use]
    pub fn with(mut self, port: u32, service: impl FnMut(UnixStream) + Send + 'static) -> Services {
        self.0.push((port, Box::new(service)));
        self
    }

    /// What to call with each stream ([`super::supervisor::Supervisor::on_connection`]). A stream to
    /// another port is closed.
    pub fn acceptor(mut self) -> impl FnMut(u32, UnixStream) + Send + 'static {
        move |port, stream| {
            let service = self.0.iter_mut().find(|(known, _)| *known == port);
            if let Some((_, service)) = service {
                service(stream);
            }
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(port, _)| port))
            .finish()
    }
}
