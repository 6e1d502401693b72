//! The network of a VM, from the host's side.
//!
//! | file | contents |
//! |---|---|
//! | `addresses` | the guest's addresses |
//! | `passt` | mode `user`: the process that connects the guest to the host's network |
//! | `keeper` | `passt`, started again when it ends |
//! | `publish` | ports of the host that lead to the guest |
//! | `resolver` | names, for every mode |
//! | `refusals` | what the rules refused: frames and names |
//! | `tap` | modes `nat` and `bridged`: an interface of the host for each VM |
//! | `connected` | all of it for one VM |
//! | `error` | why there is no network |
//!
//! The caller opens the network ([`Network::open`]), gives the VM its backend, which the supervisor
//! gets as a descriptor, and tells the agent what to configure. The supervisor itself opens nothing
//! of the host's network.

pub mod addresses;
mod connected;
mod error;
pub mod keeper;
mod passt;
pub mod publish;
pub mod refusals;
pub mod resolver;
pub mod tap;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use microagent_proto::agent;
use microagent_proto::control::{NetBackend, NetConfig};
use serde::{Deserialize, Serialize};

pub use self::connected::{Connected, Prepared};
pub use self::error::{EGRESS_FORM, INSTALL_PASST, NetworkError};
pub use self::passt::{Passt, PasstKiller};
use self::resolver::Hosts;
use self::tap::Link;
use crate::spec::{self, NetworkMode};

/// The network that a VM is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// How the VM is connected.
    pub mode: NetworkMode,
    /// The host's bridge, of mode `bridged`.
    pub interface: Option<String>,
    /// What its hardware address is made of.
    pub identity: String,
    /// What the guest may send ([`microagent_egress::Policy`]); without it, everything.
    pub egress: Option<Vec<String>>,
}

/// The program of mode `user`, if it is installed.
pub fn locate_passt() -> Option<PathBuf> {
    passt::locate()
}

impl Plan {
    /// The plan of `network`; what a hardware address is made of is `identity`.
    pub fn new(network: spec::Network, identity: String) -> Plan {
        Plan {
            mode: network.mode,
            interface: network.interface,
            identity,
            egress: network.egress,
        }
    }

    /// Refuses a mode that this host does not have.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn check_host(mode: NetworkMode) -> Result<(), NetworkError> {
        match mode {
            NetworkMode::User => locate_passt().map(drop).ok_or(NetworkError::NoPasst),
            NetworkMode::Isolated | NetworkMode::Nat | NetworkMode::Bridged => Ok(()),
        }
    }
}

/// A network that is ready for a VM.
#[derive(Debug)]
pub struct Network {
    config: NetConfig,
    guest: agent::Network,
    backend: Option<OwnedFd>,
    passt: Option<Passt>,
    /// The interface of the host, which exists as long as this.
    link: Option<Link>,
}

impl Network {
    /// Opens the network; `None` for a VM that has none.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn open(plan: &Plan) -> Result<Option<Network>, NetworkError> {
        let mac = addresses::mac(&plan.identity);
        match plan.mode {
            NetworkMode::Isolated => Ok(None),
            NetworkMode::User => {
                let (passt, backend) = Passt::start()?;
                let guest = addresses::user(mac, &Hosts::read());
                Ok(Some(Network {
                    config: NetConfig {
                        mac,
                        backend: NetBackend::Stream,
                        addresses: guest.addresses.clone(),
                        egress: plan.egress.clone(),
                    },
                    guest,
                    backend: Some(backend),
                    passt: Some(passt),
                    link: None,
                }))
            }
            NetworkMode::Nat => Network::on(tap::nat::open(&plan.identity)?, mac, plan).map(Some),
            NetworkMode::Bridged => {
                let bridge = plan.interface.as_deref().unwrap_or_default();
                Network::on(tap::bridge::open(bridge)?, mac, plan).map(Some)
            }
        }
    }

    /// On an interface of the host.
    fn on(link: Link, mac: [u8; 6], plan: &Plan) -> Result<Network, NetworkError> {
        let backend = link.tap().try_clone_to_owned();
        let backend = backend.map_err(NetworkError::descriptors)?;
        let guest = addresses::of_link(mac, &link, &Hosts::read());
        Ok(Network {
            config: NetConfig {
                mac,
                backend: NetBackend::Tap,
                addresses: guest.addresses.clone(),
                egress: plan.egress.clone(),
            },
            guest,
            backend: Some(backend),
            passt: None,
            link: Some(link),
        })
    }

    /// The device.
    pub fn config(&self) -> NetConfig {
        self.config.clone()
    }

    /// What the agent configures.
    pub fn guest(&self) -> agent::Network {
        self.guest.clone()
    }

    /// The backend of the device, once.
    pub fn take_backend(&mut self) -> Option<OwnedFd> {
        self.backend.take()
    }

    /// Fails if the network has ended already: the host has none that it could use.
    ///
    /// # Errors
    /// [`NetworkError::PasstEnded`].
    pub fn check(&mut self) -> Result<(), NetworkError> {
        match self.passt.as_mut().and_then(Passt::ended) {
            Some(why) => Err(NetworkError::PasstEnded(why)),
            None => Ok(()),
        }
    }

    /// What probably keeps the guest from reaching anything but the host, and the way out, in one
    /// line.
    pub fn obstacle(&self) -> Option<String> {
        let obstacle = self.link.as_ref()?.obstacle()?;
        Some(format!("{obstacle}; {}", obstacle.remediation()))
    }

    /// The interface of the host, if there is one.
    pub fn take_link(&mut self) -> Option<Link> {
        self.link.take()
    }

    /// The process that the network depends on, if there is one.
    pub fn take_passt(&mut self) -> Option<Passt> {
        self.passt.take()
    }
}

/// A panic of another holder leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
