//! What a configured VM does when it goes on from what was saved, before its processes run again.

use std::sync::PoisonError;

use microagent_proto::agent::Resume;
use rustix::system::uname;

use crate::configure::{ConfigureError, Configured, identify};
use crate::network;
use crate::root;

/// Applies `request`: entropy, clock, host name, network, in that order. What is as it was is not touched,
/// so that connections live on whose peer does.
pub fn resume(request: &Resume, configured: &Configured) -> Result<(), ConfigureError> {
    let renamed = uname().nodename().to_bytes() != request.hostname.as_bytes();
    identify(&request.entropy, request.unix_nanos, &request.hostname)?;
    if renamed {
        root::write_names(&request.hostname, configured.read_only)?;
    }
    let current = configured.network.lock();
    let mut current = current.unwrap_or_else(PoisonError::into_inner);
    if let (Some(former), Some(network)) = (&*current, &request.network)
        && former != network
    {
        network::change(former, network)?;
        root::write_resolver(&network::resolv_conf(network), configured.read_only)?;
        *current = Some(network.clone());
    }
    Ok(())
}
