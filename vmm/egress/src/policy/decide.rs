//! What the rules say about one destination.

use std::net::IpAddr;

use super::Policy;
use super::rule::{Action, Rule, Target};
use crate::address;
use crate::name::Name;

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it.
    Allow,
    /// A rule denies it.
    Deny,
    /// No rule matches, so it is denied.
    NoRule,
    /// It is a metadata service, and no rule for its address allows it.
    Metadata,
}

impl Decision {
    /// Whether the packet may leave.
    pub(crate) fn is_allow(self) -> bool {
        self == Self::Allow
    }
}

impl From<Action> for Decision {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}

impl Policy {
    /// Decides about a packet to `address`. `port` is that of TCP or UDP, `None` for ICMP. `name`
    /// is a host name that the address was answered for; without one no rule for names matches.
    pub(crate) fn decide(
        &self,
        address: IpAddr,
        port: Option<u16>,
        name: Option<&Name>,
    ) -> Decision {
        let is_metadata = address::is_metadata(address);
        let rule = self
            .rules
            .iter()
            .filter(|rule| rule.covers_port(port))
            // `any` and names are not meant to open what gives away the host's credentials.
            .filter(|rule| {
                !is_metadata || rule.action() == Action::Deny || rule.is_specific_network()
            })
            .find(|rule| rule.matches(address, name));
        match rule {
            Some(rule) => rule.action().into(),
            None if is_metadata => Decision::Metadata,
            None => Decision::NoRule,
        }
    }

    /// Decides about a connection whose client claims to mean `name`, although `address` was not
    /// answered for it: rules can deny it for this name, but not allow it.
    pub(crate) fn decide_claimed(
        &self,
        address: IpAddr,
        port: Option<u16>,
        name: &Name,
    ) -> Decision {
        let denies = |rule: &Rule| rule.action() == Action::Deny && rule.matches_name(name);
        if self.name_rules_before(address, port).any(denies) {
            return Decision::Deny;
        }
        self.decide(address, port, None)
    }

    /// Whether a guest may resolve `name`: whether a rule could allow a connection to it.
    ///
    /// Rules for addresses do not count: with them every name, and with it a tunnel through the
    /// resolver, would be allowed.
    pub(crate) fn may_resolve(&self, name: &Name) -> bool {
        self.rules
            .iter()
            .filter(|rule| match rule.target() {
                Target::Any => true,
                Target::Network(network) => network.prefix_len() == 0,
                Target::Name(_) | Target::Below(_) => rule.matches_name(name),
            })
            .find_map(|rule| match (rule.action(), rule.port(), rule.target()) {
                (Action::Allow, ..) => Some(true),
                // Decides only about some connections: later rules may allow others.
                (Action::Deny, Some(_), _) | (Action::Deny, None, Target::Network(_)) => None,
                (Action::Deny, None, _) => Some(false),
            })
            .unwrap_or(false)
    }

    /// Whether a rule denies `name` itself, on every port.
    pub(crate) fn denies_name(&self, name: &Name) -> bool {
        self.rules
            .iter()
            .find(|rule| rule.matches_name(name) && rule.port().is_none())
            .is_some_and(|rule| rule.action() == Action::Deny)
    }

    /// Whether a rule for addresses allows a connection to `address`, on some port. Then it may be
    /// in an answer although it is private.
    pub(crate) fn allows_address(&self, address: IpAddr) -> bool {
        self.rules
            .iter()
            .filter(|rule| rule.is_specific_network() && rule.matches(address, None))
            .find(|rule| rule.action() == Action::Allow || rule.port().is_none())
            .is_some_and(|rule| rule.action() == Action::Allow)
    }

    /// The rules for names that come before any other rule which decides about `address`.
    pub(crate) fn name_rules_before(
        &self,
        address: IpAddr,
        port: Option<u16>,
    ) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.covers_port(port))
            .take_while(move |rule| !rule.matches(address, None))
            .filter(|rule| matches!(rule.target(), Target::Name(_) | Target::Below(_)))
    }
}

impl Rule {
    /// Rules without a port cover everything, others only packets to their port.
    fn covers_port(&self, port: Option<u16>) -> bool {
        self.port().is_none() || self.port() == port
    }

    fn matches(&self, address: IpAddr, name: Option<&Name>) -> bool {
        match self.target() {
            Target::Any => true,
            Target::Network(network) => {
                address::any_form(address, |address| network.contains(&address))
            }
            Target::Name(_) | Target::Below(_) => name.is_some_and(|name| self.matches_name(name)),
        }
    }

    /// Whether this is a rule for names that include `name`.
    pub(crate) fn matches_name(&self, name: &Name) -> bool {
        match self.target() {
            Target::Any | Target::Network(_) => false,
            Target::Name(own) => own == name,
            Target::Below(suffix) => name.is_below(suffix),
        }
    }

    /// A network that someone chose, unlike `0.0.0.0/0`.
    fn is_specific_network(&self) -> bool {
        matches!(self.target(), Target::Network(network) if network.prefix_len() > 0)
    }
}
