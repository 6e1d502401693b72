//! Addresses of hosts.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration;

/// The HTTP client's resolver, in a thread of our own because of the timeout: the client panics if
/// it cannot start one (process limit).
#[derive(Debug)]
pub(super) struct HostResolver;

impl Resolver for HostResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (uri, config) = (uri.clone(), config.clone());
        let unlimited = NextTimeout {
            after: Duration::NotHappening,
            ..timeout
        };
        let (sender, resolved) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("resolver".into())
            .spawn(move || {
                // Fails after the timeout; then nobody needs the addresses.
                let _ = sender.send(DefaultResolver::default().resolve(&uri, &config, unlimited));
            })
            // Not as it is: EAGAIN is also what a socket reports after its timeout.
            .map_err(|error| io::Error::other(format!("cannot start a thread: {error}")))?;
        match resolved.recv_timeout(*timeout.after) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(ureq::Error::Timeout(timeout.reason)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the host name lookup failed").into())
            }
        }
    }
}
