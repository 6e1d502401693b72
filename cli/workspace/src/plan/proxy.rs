//! The field `proxy` of a specification.

use super::PlanError;
use crate::passed::proxy::{HOST, ProxyError, of_url};
use crate::spec::{Field, NetworkMode, Spec};

/// Refuses a proxy that guests do not reach. What `host` stands for is not known here.
///
/// # Errors
/// See above.
pub fn check(spec: &Spec) -> Result<(), PlanError> {
    let Some(proxy) = &spec.proxy else {
        return Ok(());
    };
    let field = || Field::new("proxy");
    if proxy != HOST {
        of_url(proxy).map_err(|error| PlanError::from(error).at(field()))?;
    }
    check_mode(spec.network.as_ref().map(|network| network.mode)).map_err(|error| error.at(field()))
}

/// Refuses a proxy in this network mode, if it has none.
///
/// # Errors
/// See above.
pub fn check_mode(mode: Option<NetworkMode>) -> Result<(), PlanError> {
    match mode {
        Some(NetworkMode::Isolated) => Err(PlanError::invalid(
            "a guest without a network reaches no proxy: mode isolated",
        )
        .remediation("use --network user, or omit --proxy")),
        _ => Ok(()),
    }
}

impl From<ProxyError> for PlanError {
    fn from(error: ProxyError) -> PlanError {
        PlanError::invalid(error.to_string()).remediation(error.remediation())
    }
}
