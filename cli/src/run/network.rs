//! The network of a `run`, and of the setup of a workspace.

use microagent_proto::error_chain;
use microagent_workspace::machine::boot::Guest;
use microagent_workspace::machine::services::Services;
use microagent_workspace::machine::supervisor::Supervisor;
use microagent_workspace::network::keeper::Change;
use microagent_workspace::network::publish::Bound;
use microagent_workspace::network::refusals::Refusals;
use microagent_workspace::network::{Connected, INSTALL_PASST, NetworkError, Plan, Prepared};
use microagent_workspace::spec::{Network, NetworkMode};

use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// The network that a VM gets.
#[derive(Debug, Default)]
pub struct RunNetwork {
    /// Until the guest is configured.
    prepared: Option<Prepared>,
    /// Afterwards.
    connected: Option<Connected>,
    /// What its rules refuse, if it has any.
    refusals: Option<Refusals>,
    /// Nobody asked for it, so the guest goes on without it.
    optional: bool,
    /// Where it is said that it does not work.
    output: Option<Output>,
}

/// The network that was asked for, or else that of a VM for which nothing is given.
pub fn asked_or_default(asked: Option<&Network>, settings: &Settings) -> Network {
    asked.cloned().unwrap_or_else(|| Network {
        mode: settings.network.unwrap_or_default(),
        ..Network::default()
    })
}

impl RunNetwork {
    /// Opens the network that was asked for, or else that of `$MICROAGENT_NETWORK`, or else that of
    /// mode `user` if this host has it. `identity` is what the hardware address is made of.
    ///
    /// # Errors
    /// When there is no such network, or a port is taken.
    pub fn open(
        asked: Option<&Network>,
        identity: &str,
        settings: &Settings,
    ) -> Result<RunNetwork, Failure> {
        let optional = asked.is_none() && settings.network.is_none();
        let network = asked_or_default(asked, settings);
        let forwards = network.forwards.clone();
        let plan = Plan::new(network, identity.to_owned());
        let prepared = match Prepared::open(Some(&plan), Bound::all(&forwards)?) {
            Err(NetworkError::NoPasst) if optional => {
                let notice =
                    format!("the guest has no network: passt is not installed ({INSTALL_PASST})");
                settings.output.notice(&notice);
                Prepared::open(None, Bound::all(&forwards)?)?
            }
            prepared => prepared?,
        };
        if let Some(obstacle) = prepared.obstacle() {
            settings.output.notice(&obstacle);
        }
        Ok(RunNetwork {
            prepared: Some(prepared),
            connected: None,
            refusals: plan.egress.map(|_| Refusals::default()),
            optional,
            output: Some(settings.output),
        })
    }

    /// The network, until the guest is configured.
    pub fn prepared(&mut self) -> Option<&mut Prepared> {
        self.prepared.as_mut()
    }

    /// Adds what the guest reaches through it.
    pub fn add_services(&mut self, services: Services, supervisor: &Supervisor) -> Services {
        let refusals = self.refusals.clone().unwrap_or_default();
        match &mut self.prepared {
            Some(prepared) => prepared.add_services(services, supervisor, refusals),
            None => services,
        }
    }

    /// What its rules refuse, if it has any; also after the end of the VM.
    pub fn refusals(&self) -> Option<Refusals> {
        self.refusals.clone()
    }

    /// Tells the guest about it. Without effect on an optional one that has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn configure(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        let Some(prepared) = &mut self.prepared else {
            return Ok(());
        };
        match prepared.configure(guest) {
            Err(error) if self.optional => {
                // Its device stays, without a link.
                prepared.abandon();
                self.notice(&format!(
                    "the guest has no network: {}",
                    error_chain(&error)
                ));
                Ok(())
            }
            configured => Ok(configured?),
        }
    }

    /// Keeps it while the VM runs, once the guest is configured.
    ///
    /// # Errors
    /// When this process is out of descriptors or threads.
    pub fn serve(&mut self, supervisor: &Supervisor) -> Result<(), Failure> {
        let Some(prepared) = self.prepared.take() else {
            return Ok(());
        };
        let connector = supervisor.connector().map_err(NetworkError::descriptors)?;
        let output = self.output;
        let report = move |change| {
            let text = match change {
                Change::Down(error) => format!("the network is down: {}", error_chain(&error)),
                Change::Up => "the network is up again".to_owned(),
            };
            if let Some(output) = output {
                output.notice(&text);
            }
        };
        let connected = prepared.serve(supervisor.controller(), &connector, report)?;
        self.connected = Some(connected);
        Ok(())
    }
}

impl RunNetwork {
    fn notice(&self, text: &str) {
        if let Some(output) = self.output {
            output.notice(text);
        }
    }
}

/// Whether the VM is to have a network device, as [`RunNetwork::open`] decides.
pub fn is_wanted(asked: Option<&Network>, settings: &Settings) -> bool {
    asked_or_default(asked, settings).mode != NetworkMode::Isolated
}

/// Refuses a mode that this host does not have.
///
/// # Errors
/// When the program of mode `user` is missing.
pub fn check_host(mode: NetworkMode) -> Result<(), Failure> {
    Ok(Plan::check_host(mode)?)
}
