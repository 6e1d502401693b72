//! The field `network` of a specification.

use std::net::IpAddr;

use microagent_egress::Policy;

use super::PlanError;
use crate::network::EGRESS_FORM;
use crate::spec::{Field, Forward, Network, NetworkMode};

/// The size of an interface's name in Linux, with its NUL byte.
const IFNAMSIZ: usize = 16;

/// Refuses what does not fit together.
///
/// # Errors
/// The first invalid value.
pub fn check(network: &Network) -> Result<(), PlanError> {
    match (network.mode, &network.interface) {
        (NetworkMode::Bridged, None) => {
            return Err(
                PlanError::invalid("network mode bridged needs a bridge of the host")
                    .at(Field::new("network.mode"))
                    .remediation("use --network bridged --network-interface BRIDGE"),
            );
        }
        (NetworkMode::Bridged, Some(name)) if !is_interface(name) => {
            let message = format!(
                "{name:?} is not the name of a Linux interface; display names are those of other hosts"
            );
            return Err(PlanError::invalid(message)
                .at(Field::new("network.interface"))
                .remediation("use the name of a bridge, as in --network-interface br0"));
        }
        (NetworkMode::Bridged, Some(_)) | (_, None) => {}
        (mode, Some(_)) => {
            let message = format!("--network-interface has no meaning in mode {}", mode.name());
            return Err(PlanError::invalid(message)
                .at(Field::new("network.interface"))
                .remediation("use --network bridged --network-interface BRIDGE"));
        }
    }
    if network.mode == NetworkMode::Isolated && !network.forwards.is_empty() {
        return Err(PlanError::invalid(
            "a guest without a network publishes no ports: mode isolated",
        )
        .at(Field::new("network.forwards"))
        .remediation("use --network user, or publish none"));
    }
    if let Some(rules) = &network.egress {
        if network.mode == NetworkMode::Bridged {
            let message = "egress rules need addresses that are known: not in mode bridged";
            return Err(PlanError::invalid(message)
                .at(Field::new("network.egress"))
                .remediation("use --network nat or user"));
        }
        Policy::parse(rules).map_err(|error| {
            PlanError::invalid(error.to_string())
                .at(Field::new("network.egress"))
                .remediation(EGRESS_FORM)
        })?;
    }
    for (index, forward) in network.forwards.iter().enumerate() {
        let field = || Field::new("network.forwards").index(index);
        check_forward(forward).map_err(|error| error.at(field()))?;
        let same =
            |other: &&Forward| (&other.host, other.host_port) == (&forward.host, forward.host_port);
        if network.forwards[..index].iter().find(same).is_some() {
            let message = format!("port {} of the host is published twice", forward.host_port);
            return Err(PlanError::invalid(message)
                .at(field())
                .remediation("publish each port once"));
        }
    }
    Ok(())
}

/// Whether Linux could have an interface of this name (`dev_valid_name`).
fn is_interface(name: &str) -> bool {
    let valid = |c: char| !c.is_whitespace() && !matches!(c, '/' | ':' | '\0');
    (1..IFNAMSIZ).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(valid)
}

/// Refuses a port or an address that is none.
///
/// # Errors
/// See above.
pub fn check_forward(forward: &Forward) -> Result<(), PlanError> {
    let with_form = |message: String| {
        PlanError::invalid(message)
            .remediation("use --publish [HOST:]PORT:GUESTPORT, such as 8080:80 or 0.0.0.0:8080:80")
    };
    if forward.host_port == 0 || forward.guest_port == 0 {
        return Err(with_form("a port to publish is from 1 to 65535".into()));
    }
    match &forward.host {
        Some(host) if host.parse::<IpAddr>().is_err() => Err(with_form(format!(
            "{host:?} is not an address of this host to publish on"
        ))),
        _ => Ok(()),
    }
}
