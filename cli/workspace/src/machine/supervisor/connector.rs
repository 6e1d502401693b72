//! Streams to the guest, asked for by any thread.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use microagent_proto::control::{ToSupervisor, encode};

use super::send;
use super::streams::Streams;

/// Opens streams to the guest from any thread.
#[derive(Debug, Clone)]
pub struct Connector {
    control: Arc<OwnedFd>,
    counted: Option<Arc<Streams>>,
}

impl Connector {
    /// One on the control socket of a supervisor.
    pub(super) fn new(control: OwnedFd) -> Connector {
        Connector {
            control: Arc::new(control),
            counted: None,
        }
    }

    /// One whose streams are counted.
    #[must_use]
    pub fn counted(&self, streams: Arc<Streams>) -> Connector {
        Connector {
            control: Arc::clone(&self.control),
            counted: Some(streams),
        }
    }

    /// Connects `stream` to a vsock port of the guest. It is closed if the guest refuses.
    ///
    /// # Errors
    /// When the VM has ended.
    pub fn connect(&self, port: u32, stream: UnixStream) -> io::Result<()> {
        let message = encode(&ToSupervisor::Connect { port })?;
        if let Some(counted) = &self.counted {
            counted.add(&stream)?;
        }
        Ok(send(&self.control, &message, Some(stream.into()))?)
    }

    /// A stream to a vsock port of the guest.
    ///
    /// # Errors
    /// When the VM has ended, or this process is out of descriptors.
    pub fn open(&self, port: u32) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.connect(port, theirs)?;
        Ok(ours)
    }
}
