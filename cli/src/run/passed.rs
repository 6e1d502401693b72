//! What a guest takes from this host on request: proxies from the environment, certificates from files.

use std::io;
use std::path::PathBuf;

use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;
use microagent_workspace::passed::Passed;
use microagent_workspace::passed::certificates::{self, CertificatesError};
use microagent_workspace::passed::proxy::{self, HOST, ProxyError};

use crate::failure::{Failure, kind_of};
use crate::output::Output;
use crate::request::{Variables, variables::of_caller};

/// Reads what `proxy` and the files `ca_certs` stand for. Variables that the user gives are not taken
/// from the environment.
///
/// # Errors
/// There is no such proxy that a guest reaches, or a file has no certificate.
pub fn read(
    proxy: Option<&str>,
    ca_certs: &[PathBuf],
    given: &Variables,
    output: Output,
) -> Result<Passed, Failure> {
    let proxy = match proxy {
        None => Default::default(),
        Some(HOST) => {
            let found = proxy::of_host(|name| match given.names(name) {
                true => Ok::<_, Failure>(None),
                false => of_caller(name),
            })?;
            if found.is_empty() {
                output.notice("no proxy is passed on: none is set in this environment");
            }
            found
        }
        Some(url) => proxy::of_url(url)?,
    };
    Ok(Passed {
        proxy,
        certificates: certificates::read(ca_certs)?,
    })
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Failure {
        Failure::usage(error.to_string()).remediation(error.remediation())
    }
}

impl From<CertificatesError> for Failure {
    fn from(error: CertificatesError) -> Failure {
        let message = error_chain(&error);
        match &error {
            CertificatesError::Read { source, .. } => {
                let kind = match source.kind() {
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    _ => kind_of(source),
                };
                Failure::new(kind, message)
            }
            _ => Failure::usage(message).maybe_remediation(error.remediation()),
        }
    }
}
