//! HTTP(S) connections to registries and to the servers of kernels: which proxy to use, whom to
//! trust, what a redirect names, and which responses are understood. Both kinds of servers are
//! reached with the same settings.

mod agent;
mod plain_proxy;
pub(crate) mod proxy;
pub(crate) mod redirect;
mod resolver;
mod response_head;
pub(crate) mod tls;

pub(crate) use agent::{Agents, Route};
