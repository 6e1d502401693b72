//! The network interface of a VM: its device, made from a descriptor that the caller opened.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use microagent_egress::{Filter, Guest, NameError, Pin, Policy, PolicyError};
use microagent_proto::control::{self, NET_MTU, NetBackend, NetConfig, NetStats};

use super::refusals::{Refusals, refused};
use crate::virtio::net::{
    Backend, Counters, Mac, MtuTooSmall, Net, NotUnicast, SharedFilter, Slot, Stream, Tap,
    TapError, lock,
};

/// Why an interface has no backend.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    #[error("this VM has no network interface")]
    None,
    #[error("the address of the network interface is invalid")]
    Mac(#[from] NotUnicast),
    #[error(transparent)]
    Mtu(#[from] MtuTooSmall),
    #[error("cannot use the TAP interface")]
    Tap(#[from] TapError),
    #[error("the egress rules are invalid")]
    Egress(#[from] PolicyError),
    #[error("the name of a pin is invalid")]
    Name(#[from] NameError),
    #[error("cannot create the network device")]
    Io(#[from] std::io::Error),
}

/// Access to the network device of a running VM.
#[derive(Debug)]
pub(super) struct Interface {
    slot: Slot,
    counters: Arc<Counters>,
    kind: NetBackend,
    filter: Option<SharedFilter>,
}

impl Interface {
    /// The device that `config` describes, on this backend.
    pub fn open(config: &NetConfig, backend: OwnedFd) -> Result<(Net, Interface), NetError> {
        let mac = Mac::new(config.mac)?;
        let mut device = Net::new(mac, backend_of(config.backend, backend)?).with_mtu(NET_MTU)?;
        let filter = filter_of(config)?;
        if let Some(filter) = &filter {
            device = device.with_filter(Arc::clone(filter));
        }
        let counters = device.counters();
        let (device, slot) = device.with_slot()?;
        let interface = Interface {
            slot,
            counters,
            kind: config.backend,
            filter,
        };
        Ok((device, interface))
    }

    /// Replaces the backend by one of the same kind.
    pub fn attach(&self, backend: OwnedFd) -> Result<(), NetError> {
        self.slot.attach(backend_of(self.kind, backend)?);
        Ok(())
    }

    /// Allows new connections to the addresses of a name.
    pub fn pin(&self, pin: &control::Pin) -> Result<(), NetError> {
        if let Some(filter) = &self.filter {
            let pin = Pin {
                name: pin.name.parse()?,
                addresses: pin.addresses.clone(),
                lifetime: Duration::from_millis(pin.lifetime_millis),
            };
            lock(filter).pin(&pin, Instant::now());
        }
        Ok(())
    }

    /// Reports of what its rules refuse, if it has any.
    pub fn refusals(&self) -> Option<Refusals> {
        self.filter.clone().map(Refusals::of)
    }

    /// What has passed it.
    pub fn stats(&self) -> NetStats {
        NetStats {
            sent_bytes: self.counters.sent_bytes(),
            sent_frames: self.counters.sent(),
            received_bytes: self.counters.received_bytes(),
            received_frames: self.counters.received(),
            refused: self.filter.as_ref().map(refused).unwrap_or_default(),
        }
    }
}

/// The filter of an interface with rules.
fn filter_of(config: &NetConfig) -> Result<Option<SharedFilter>, NetError> {
    let Some(rules) = &config.egress else {
        return Ok(None);
    };
    let policy = Policy::parse(rules)?;
    let own = || config.addresses.iter();
    let guest = Guest {
        mac: config.mac,
        ipv4: own().find_map(|own| match own.address {
            IpAddr::V4(address) => Ipv4Net::new(address, own.prefix).ok(),
            IpAddr::V6(_) => None,
        }),
        ipv6: (own())
            .filter_map(|own| match own.address {
                IpAddr::V6(address) => Ipv6Net::new(address, own.prefix).ok(),
                IpAddr::V4(_) => None,
            })
            .collect(),
        gateways: own().filter_map(|own| own.gateway).collect(),
    };
    let filter = Filter::new(Some(policy), guest);
    Ok(Some(Arc::new(Mutex::new(filter))))
}

fn backend_of(kind: NetBackend, descriptor: OwnedFd) -> Result<Box<dyn Backend>, NetError> {
    Ok(match kind {
        NetBackend::Stream => Box::new(Stream::for_passt(descriptor.into())?),
        NetBackend::Tap => Box::new(Tap::new(descriptor)?),
    })
}
