//! The server of the host that a guest reaches over vsock.

use microagent_proto::agent::{DNS_PORT, READY_PORT};

use super::PlanError;
use crate::spec::{Field, Mediation};

/// Validates the port and the target.
///
/// # Errors
/// When one of them is invalid.
pub fn check(mediation: &Mediation) -> Result<(), PlanError> {
    check_port(mediation.port).map_err(|error| error.at(Field::new("mediation.port")))?;
    check_target(&mediation.target).map_err(|error| error.at(Field::new("mediation.target")))
}

/// virtio-vsock reserves the largest number (`VMADDR_PORT_ANY`), and the agent uses [`READY_PORT`] and
/// [`DNS_PORT`].
fn check_port(port: u32) -> Result<(), PlanError> {
    match port {
        0 | u32::MAX => Err(PlanError::invalid(format!(
            "mediation port {port} is not a vsock port"
        ))
        .remediation("use a port from 1 to 4294967294")),
        READY_PORT | DNS_PORT => Err(PlanError::invalid(format!(
            "mediation port {port} is that of microagent's agent"
        ))
        .remediation("use another port")),
        _ => Ok(()),
    }
}

fn check_target(target: &str) -> Result<(), PlanError> {
    let valid = target.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let plain = !host.is_empty() && !host.contains([':', '[', ']', '/', ' ', '\0']);
        (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match valid {
        true => Ok(()),
        false => Err(
            PlanError::invalid(format!("mediation target {target:?} is not HOST:PORT"))
                .remediation(
                    "use a name or address and a port, such as 127.0.0.1:8000 or [::1]:8000",
                ),
        ),
    }
}
