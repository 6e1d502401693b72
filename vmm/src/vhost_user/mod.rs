//! Serves a device to the front end in another process over vhost-user.
//!
//! The `vhost-user-backend` crate implements the protocol and manages the rings' file descriptors
//! and the guest's memory. It runs a thread that handles messages of the front end and one that
//! waits for kicks. [`backend`] maps its callbacks to
//! [`VirtioDevice`](crate::virtio::VirtioDevice).
//!
//! vhost-user has no message for `DRIVER_OK`: a device is active from the first event of a ring
//! that is started and enabled until any ring is stopped. The front end stops all rings when the
//! driver resets the device.

mod backend;
mod proxy;
mod ring;
mod socket;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::virtio::VirtioDevice;
use backend::Backend;
use proxy::Proxy;
pub use proxy::socket_path;

/// Why a device cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The connection cannot be created.
    #[error("cannot create a vhost-user connection in {}", dir.display())]
    Connect {
        /// The directory of the socket.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The threads that serve the device cannot be started.
    #[error("cannot serve {name} over vhost-user: {reason}")]
    Serve {
        /// The device's name.
        name: String,
        /// The cause, as text: the errors of `vhost-user-backend` do not implement `Error`.
        reason: String,
    },
}

/// A device that is served. Dropping it closes the connection and waits for its threads.
pub struct Server {
    name: String,
    backend: Arc<Backend>,
    daemon: VhostUserDaemon<Arc<Backend>>,
    /// Dropped first, which closes the daemon's connection.
    proxy: Option<Proxy>,
}

/// Serves a device; `name` is for messages. Returns the front end's end of the connection. `dir` is
/// a private directory for a temporary socket.
///
/// # Errors
/// When the host is out of threads or file descriptors, or `dir` is not writable.
pub fn serve(
    name: &str,
    device: Box<dyn VirtioDevice>,
    dir: &Path,
) -> Result<(Server, UnixStream), VhostUserError> {
    let failed = |reason: &dyn fmt::Display| VhostUserError::Serve {
        name: name.to_owned(),
        reason: reason.to_string(),
    };
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let backend = Backend::new(name, device).map_err(|error| failed(&error))?;
    let backend = Arc::new(backend);
    let mut daemon = VhostUserDaemon::new(name.to_owned(), backend.clone(), memory)
        .map_err(|error| failed(&error))?;
    if let Some(events) = daemon.get_epoll_handlers().first() {
        backend
            .set_event_loop(events)
            .map_err(|error| failed(&error))?;
    }
    let (listener, theirs) =
        socket::connected_pair(dir).map_err(|source| VhostUserError::Connect {
            dir: dir.to_owned(),
            source,
        })?;
    daemon
        .start(&mut listener.into())
        .map_err(|error| failed(&error))?;
    Ok((
        Server {
            name: name.to_owned(),
            backend,
            daemon,
            proxy: None,
        },
        theirs,
    ))
}

/// Serves a device to QEMU's network front end, which connects to a path. Returns a descriptor of
/// the directory of the socket, for QEMU to inherit; [`socket_path`] makes the path of `name` and
/// that descriptor. The socket is removed once the front end has connected.
///
/// # Errors
/// Those of [`serve`].
pub fn serve_at_path(
    name: &str,
    device: Box<dyn VirtioDevice>,
    dir: &Path,
) -> Result<(Server, OwnedFd), VhostUserError> {
    let (mut server, theirs) = serve(name, device, dir)?;
    let started = Proxy::start(name, dir, theirs);
    let (proxy, directory) = started.map_err(|source| VhostUserError::Connect {
        dir: dir.to_owned(),
        source,
    })?;
    server.proxy = Some(proxy);
    Ok((server, directory))
}

impl Server {
    /// The state of the device, then one line for each queue, for diagnostics.
    pub fn describe(&self) -> Vec<String> {
        self.backend.describe()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.proxy.take());
        self.daemon.request_shutdown();
        if let Err(error) = self.daemon.wait() {
            // A front end that was killed may have closed the connection within a message.
            tracing::debug!("{}: vhost-user ended: {error}", self.name);
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
