#[cfg(test)]
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::{PolicyError, RuleError, ShownRule};
use crate::address;
use crate::name::Name;

/// Ports of name resolution, which no rule can allow: DNS, DNS over TLS or QUIC, multicast DNS,
/// link-local multicast name resolution.
pub(crate) const DNS_PORTS: [u16; 4] = [53, 853, 5353, 5355];

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The packets may leave.
    Allow,
    /// They are dropped.
    Deny,
}

/// The destinations that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every destination.
    Any,
    /// The addresses of a network.
    Network(IpNet),
    /// The addresses that were answered for a host name.
    Name(Name),
    /// The addresses that were answered for a subdomain of this name, at any depth.
    Below(Name),
}

/// A rule: `ACTION=DESTINATION[:PORT]`.
///
/// | text | matches |
/// |---|---|
/// | `allow=any` | everything |
/// | `deny=10.0.0.0/8` | a network |
/// | `allow=192.0.2.7:443` | one address, TCP and UDP to one port |
/// | `allow=[2001:db8::/32]:443`, `allow=[2001:db8::1]` | IPv6, always in brackets |
/// | `allow=pypi.org:443` | a host name |
/// | `allow=*.debian.org` | all subdomains, not `debian.org` itself |
///
/// A rule with a port matches TCP and UDP, one without a port also ICMP. Host names are normalised:
/// lower case, punycode, no trailing dot. An IPv4-mapped IPv6 network is the IPv4 network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    action: Action,
    target: Target,
    port: Option<u16>,
}

impl Rule {
    /// What the rule does.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The destinations that it matches.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The port that it is limited to.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    fn parse(text: &str) -> Result<Self, RuleError> {
        let (action, rest) = if let Some(rest) = text.strip_prefix("allow=") {
            (Action::Allow, rest)
        } else if let Some(rest) = text.strip_prefix("deny=") {
            (Action::Deny, rest)
        } else {
            return Err(RuleError::Action);
        };
        let (target, port) = target_and_port(rest)?;
        if let (Action::Allow, Some(port)) = (action, port)
            && DNS_PORTS.contains(&port)
        {
            return Err(RuleError::DnsPort(port));
        }
        Ok(Self {
            action,
            target,
            port,
        })
    }
}

fn target_and_port(text: &str) -> Result<(Target, Option<u16>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, rest) = rest.split_once(']').ok_or(RuleError::Brackets)?;
        let port = match rest {
            "" => None,
            rest => Some(port(rest.strip_prefix(':').ok_or(RuleError::Brackets)?)?),
        };
        return Ok((Target::Network(network6(inner)?), port));
    }
    let (host, port) = match text.split_once(':') {
        None => (text, None),
        Some((_, rest)) if rest.contains(':') => return Err(RuleError::NoBrackets),
        Some((host, rest)) => (host, Some(port(rest)?)),
    };
    Ok((target(host)?, port))
}

fn target(host: &str) -> Result<Target, RuleError> {
    if host.is_empty() {
        return Err(RuleError::NoTarget);
    }
    if host.eq_ignore_ascii_case("any") {
        return Ok(Target::Any);
    }
    if let Some((address, prefix)) = host.split_once('/') {
        let address: Ipv4Addr = address.parse().map_err(|_| RuleError::Network)?;
        let network = Ipv4Net::new(address, self::prefix(prefix)?);
        return Ok(Target::Network(checked(
            network.map_err(|_| RuleError::Prefix)?.into(),
        )?));
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(Target::Network(checked(IpAddr::V4(address).into())?));
    }
    if let Some(suffix) = host.strip_prefix("*.") {
        if suffix.contains('*') {
            return Err(RuleError::Wildcard);
        }
        let suffix: Name = suffix.parse()?;
        if suffix.labels() < 2 {
            return Err(RuleError::ShortSuffix);
        }
        return Ok(Target::Below(suffix));
    }
    if host.contains('*') {
        return Err(RuleError::Wildcard);
    }
    Ok(Target::Name(host.parse()?))
}

fn network6(text: &str) -> Result<IpNet, RuleError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, self::prefix(prefix)?),
        None => (text, 128),
    };
    let address: Ipv6Addr = address.parse().map_err(|_| RuleError::Brackets)?;
    let network = Ipv6Net::new(address, prefix).map_err(|_| RuleError::Prefix)?;
    match address.to_ipv4_mapped() {
        Some(inner) if prefix >= 96 => {
            let network = Ipv4Net::new(inner, prefix - 96).map_err(|_| RuleError::Prefix)?;
            checked(network.into())
        }
        _ => checked(network.into()),
    }
}

fn checked(network: IpNet) -> Result<IpNet, RuleError> {
    let trunc = network.trunc();
    if trunc != network {
        return Err(RuleError::HostBits(trunc));
    }
    if address::is_never_on_a_link(network) {
        return Err(RuleError::NeverOnALink);
    }
    Ok(network)
}

/// Digits only: `parse` would accept a sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn prefix(text: &str) -> Result<u8, RuleError> {
    digits(text).ok_or(RuleError::Prefix)
}

fn port(text: &str) -> Result<u16, RuleError> {
    digits(text)
        .filter(|port| *port != 0)
        .ok_or(RuleError::Port)
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text).map_err(|why| PolicyError::Rule {
            rule: ShownRule::new(text),
            why,
        })
    }
}

/// The normal form, which the parser reads again.
#[cfg(test)]
impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Allow => formatter.write_str("allow=")?,
            Action::Deny => formatter.write_str("deny=")?,
        }
        match &self.target {
            Target::Any => formatter.write_str("any")?,
            Target::Network(network) => write_network(*network, formatter)?,
            Target::Name(name) => write!(formatter, "{name}")?,
            Target::Below(suffix) => write!(formatter, "*.{suffix}")?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
fn write_network(network: IpNet, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let is_host = network.prefix_len() == network.max_prefix_len();
    match network {
        IpNet::V4(_) if is_host => write!(formatter, "{}", network.addr()),
        IpNet::V4(_) => write!(formatter, "{network}"),
        IpNet::V6(_) if is_host => write!(formatter, "[{}]", network.addr()),
        IpNet::V6(_) => write!(formatter, "[{network}]"),
    }
}
