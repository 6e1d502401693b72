//! Why there is no network.

use std::io;
use std::net::SocketAddr;

use microagent_pipeline::ErrorKind;

use microagent_egress::PolicyError;

use super::tap::{InterfaceError, Lost};

/// The command that installs `passt` on Debian and Ubuntu.
pub const INSTALL_PASST: &str = "sudo apt-get install --yes passt";

/// How a rule about what the guest may send is written.
pub const EGRESS_FORM: &str =
    "rules are such as allow=pypi.org:443, allow=*.example.org and deny=10.0.0.0/8";

/// Why a network cannot be opened, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The program of mode `user` is not installed.
    #[error("network mode user needs the program passt, which is not installed")]
    NoPasst,
    /// It ended.
    #[error("passt ended: {0}")]
    PasstEnded(String),
    /// A rule about what the guest may send is invalid.
    #[error(transparent)]
    Egress(#[from] PolicyError),
    /// An address to publish on is none.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// A port to publish is taken, or not allowed.
    #[error("cannot listen on {address}")]
    Taken {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no interface of the host for it.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The interface of the host connects the VM to nothing.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// A system call failed.
    #[error("cannot {operation}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl NetworkError {
    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
        move |source| NetworkError::Io { operation, source }
    }

    /// This process is out of descriptors.
    pub fn descriptors(source: io::Error) -> NetworkError {
        NetworkError::io("duplicate a socket")(source)
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NetworkError::Address(_) | NetworkError::Egress(_) => ErrorKind::Usage,
            NetworkError::Interface(error) => error.kind(),
            _ => ErrorKind::Host,
        }
    }

    /// The way out.
    pub fn remediation(&self) -> Option<String> {
        match self {
            NetworkError::NoPasst => Some(format!("{INSTALL_PASST}, or use --network isolated")),
            NetworkError::Interface(error) => error.remediation(),
            NetworkError::PasstEnded(_) => {
                Some("run the guest without a network: --network isolated".into())
            }
            NetworkError::Taken { .. } => Some("publish another port of the host".into()),
            NetworkError::Egress(_) => Some(EGRESS_FORM.into()),
            NetworkError::Address(_) | NetworkError::Lost(_) | NetworkError::Io { .. } => None,
        }
    }
}
