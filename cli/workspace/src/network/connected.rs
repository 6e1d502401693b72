//! The network of one VM, from before its start to its end.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use microagent_egress::Policy;
use microagent_proto::agent::{Address, DNS_PORT};
use microagent_proto::control::{Refused, VmConfig};

use super::keeper::{Change, Keeper};
use super::publish::{Bound, MAX_CONNECTIONS, Published};
use super::refusals::Refusals;
use super::resolver::Resolver;
use super::tap::{Link, Lost, Watch};
use super::{Network, NetworkError, Plan, lock};
use crate::machine::boot::Guest;
use crate::machine::places::Places;
use crate::machine::services::Services;
use crate::machine::supervisor::{Connector, Controller, Supervisor};
use crate::spec::Forward;

/// A network that is ready, and ports that are taken, for a VM that is not started yet.
#[derive(Debug)]
pub struct Prepared {
    network: Option<Network>,
    policy: Option<Policy>,
    refusals: Refusals,
    bound: Vec<Bound>,
}

impl Prepared {
    /// Opens the network that `plan` describes, for a VM to which the ports `bound` are to lead.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn open(plan: Option<&Plan>, bound: Vec<Bound>) -> Result<Prepared, NetworkError> {
        let rules = plan.and_then(|plan| plan.egress.as_ref());
        Ok(Prepared {
            // First: invalid rules start nothing.
            policy: rules.map(Policy::parse).transpose()?,
            refusals: Refusals::default(),
            bound,
            network: plan.map_or(Ok(None), Network::open)?,
        })
    }

    /// What probably keeps the guest from reaching anything but the host, and the way out, in one
    /// line. A reason to warn, not to fail.
    pub fn obstacle(&self) -> Option<String> {
        self.network.as_ref()?.obstacle()
    }

    /// Adds the device to the VM; returns its backend.
    pub fn add_device(&mut self, vm: &mut VmConfig) -> Option<OwnedFd> {
        let network = self.network.as_mut()?;
        vm.net = Some(network.config());
        vm.listen.push(DNS_PORT);
        network.take_backend()
    }

    /// Adds what the guest reaches on the host. `supervisor` is that of its VM; with rules, what they
    /// refuse is counted in `refusals`.
    pub fn add_services(
        &mut self,
        services: Services,
        supervisor: &Supervisor,
        refusals: Refusals,
    ) -> Services {
        if self.network.is_none() {
            return services;
        }
        let policy = self.policy.take();
        if policy.is_some() {
            self.refusals = refusals.clone();
            supervisor.on_refused(move |refused| refusals.set_frames(refused));
        }
        let controller = supervisor.controller();
        let pin = move |pin| controller.pin(pin).is_ok();
        let resolver = Arc::new(Resolver::new(policy, self.refusals.clone(), pin));
        services.with(DNS_PORT, resolver.acceptor())
    }

    /// What the guest is told, unless the network has ended meanwhile.
    ///
    /// # Errors
    /// [`NetworkError::PasstEnded`].
    pub fn configure(&mut self, guest: &mut Guest) -> Result<(), NetworkError> {
        if let Some(network) = &mut self.network {
            network.check()?;
            guest.network = Some(network.guest());
        }
        Ok(())
    }

    /// Goes on without the network; the ports stay.
    pub fn abandon(&mut self) {
        self.network = None;
    }

    /// Keeps the network, and connects the ports, once the guest is configured. `report` is called
    /// when the network is lost, and when it works again.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn serve(
        self,
        controller: Controller,
        connector: &Connector,
        mut report: impl FnMut(Change) + Send + 'static,
    ) -> Result<Connected, NetworkError> {
        let Prepared {
            network,
            refusals,
            bound,
            ..
        } = self;
        let (addresses, passt, link) = match network {
            Some(mut network) => (
                network.config().addresses,
                network.take_passt(),
                network.take_link(),
            ),
            None => (Vec::new(), None, None),
        };
        let (mut keeper, mut watched) = (None, None);
        if let Some(passt) = passt {
            let attach = move |backend| controller.attach_net(backend).is_ok();
            keeper = Some(Keeper::start(passt, attach, report)?);
        } else if let Some(link) = link {
            let report = move |state: Result<(), Lost>| {
                report(state.map_or_else(|lost| Change::Down(lost.into()), |()| Change::Up));
            };
            let watch = Watch::start(&link, report);
            watched = Some((
                watch.map_err(NetworkError::io("watch the interface"))?,
                link,
            ));
        }
        let places = Places::new(MAX_CONNECTIONS);
        let published = bound
            .into_iter()
            .map(|bound| bound.serve(connector.clone(), places.clone()));
        Ok(Connected {
            addresses,
            refusals,
            keeper: Mutex::new(keeper),
            link: Mutex::new(watched),
            published: Mutex::new(published.collect::<Result<_, _>>()?),
            places,
        })
    }
}

/// The network of a running VM.
#[derive(Debug)]
pub struct Connected {
    addresses: Vec<Address>,
    refusals: Refusals,
    keeper: Mutex<Option<Keeper>>,
    /// Its end is not reported: the watch is dropped first.
    link: Mutex<Option<(Watch, Link)>>,
    published: Mutex<Vec<Published>>,
    /// Of connections to published ports.
    places: Places,
}

impl Connected {
    /// Takes the ports from the guest, and keeps them.
    pub fn release_ports(&self) -> Vec<Bound> {
        let published = std::mem::take(&mut *lock(&self.published));
        published
            .into_iter()
            .filter_map(Published::release)
            .collect()
    }

    /// Ends it: the guest's link goes down, and the ports are free.
    pub fn end(&self) {
        drop(lock(&self.keeper).take());
        drop(lock(&self.link).take());
        lock(&self.published).clear();
    }

    /// Publishes a port; returns it as it is published.
    ///
    /// # Errors
    /// [`NetworkError::Taken`].
    pub fn publish(
        &self,
        forward: &Forward,
        connector: Connector,
    ) -> Result<Forward, NetworkError> {
        let published = Bound::new(forward)?.serve(connector, self.places.clone())?;
        let forward = published.forward().clone();
        lock(&self.published).push(published);
        Ok(forward)
    }

    /// Frees the port at this address of the host; returns whether it was published.
    pub fn unpublish(&self, forward: &Forward) -> bool {
        let wanted = forward.address().ok();
        let mut published = lock(&self.published);
        let before = published.len();
        published.retain(|other| other.forward().address().ok() != wanted);
        published.len() < before
    }

    /// The guest's addresses, as far as the host gives them.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The names that were refused so far.
    pub fn refused_names(&self) -> Refused {
        self.refusals.refused_names()
    }

    /// What is published.
    pub fn published(&self) -> Vec<Forward> {
        let published = lock(&self.published);
        published.iter().map(|it| it.forward().clone()).collect()
    }
}
